"""Text to token ids and back, with the ids of ``<pause>`` and of the end of a document checked at loading.

``<pause>`` is a *control symbol* of a SentencePiece model, or a *special token* of a Hugging Face tokenizer: it has an
id, but no text is ever encoded to it. A document that happens to contain the characters ``<pause>`` keeps them as text,
and so it is with ``</s>`` and the like; pauses and ends of documents enter by id alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pause_megatron.errors import UserError
from pause_megatron.tokenizer import cutting
from pause_megatron.tokenizer.cutting import encode_in_pieces
from pause_megatron.tokenizer.model_file import SCORE_STEP
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.tokenizers_backend import TOKENIZER_FILE, TokenizersBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_FILE = "tokenizer.model"
"""Name of the SentencePiece model in a tokenizer folder that this project writes."""
PAUSE_TOKEN = "<pause>"
"""Name of the pause token: a control symbol of a SentencePiece model, a special token of a Hugging Face tokenizer."""
EDGE_CASE_TEXTS = (
    "",
    " ",
    "   two  runs   of spaces   ",
    "\n",
    "first line\n\n  indented line\r\n\tafter a tab\n",
    "<pause>",
    "a literal <pause> in text, </s> and <unk>, and <0x41>",
    "<|endoftext|> and<s>",
    "▁ ▁▁word",
    "naïve café, cafe\u0301, ﬁne ½ №",
    "日本語の文章、العربية, кириллица",
    "😀 👩‍👩‍👧 \u200b\ufeff\ufffd",
    "\x00\x07\x7f",
    "1234567890 3.14 1,000,000",
    "DON'T we'Ve it's",
    "a" * 1000,
)
"""Texts that tokenizer conversions often get wrong; two tokenizers that should be equal are always compared on them."""

_HOW_TO_MAKE_ONE = "make one with `pause-megatron tokenizer`"


class PauseTokenizer:
    """A tokenizer that knows ``<pause>`` and an end-of-document token.

    Attributes: ``path`` (the ``.model`` file or ``tokenizer.json``), ``sha256`` (of that file, hexadecimal),
    ``vocab_size`` (no id is as large; special and added tokens are counted), ``pause_id``, ``eod_id`` (SentencePiece's
    ``eos``, Hugging Face's ``eos_token``), ``encoder_name`` (the library that encodes: ``sentencepiece`` or
    ``tokenizers``) and ``backend``.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        """Check ``content``, that of ``path``; use :meth:`load` to read it."""
        self.path = path
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.backend = open_backend(path, content)
        self.encoder_name: str = self.backend.encoder_name
        self.vocab_size: int = self.backend.vocab_size
        pause_id, eod_id = self.backend.special_id(PAUSE_TOKEN), self.backend.eod_id
        if pause_id is None:
            raise UserError(
                f"{path}: this tokenizer has no {PAUSE_TOKEN} token; add it with "
                f"`pause-megatron tokenizer --from-tokenizer {path} --output FOLDER`"
            )
        if eod_id is None:
            raise UserError(f"{path}: {self.backend.no_end_of_document()}")
        self.pause_id: int = pause_id
        self.eod_id: int = eod_id

    @classmethod
    def load(cls, path: Path | str) -> PauseTokenizer:
        """Load a tokenizer from its folder, its ``.model`` file or its ``tokenizer.json``.

        Raises :class:`UserError` when there is none, when it is no such tokenizer, or when ``<pause>`` or the end of a
        document has no id of its own there.
        """
        file = find_tokenizer_file(Path(path))
        return cls(file, read_tokenizer_file(file))

    @property
    def caveat(self) -> str | None:
        """What to know before data is written with this tokenizer, if anything."""
        if isinstance(self.backend, SentencePieceBackend) and not self.backend.scores_are_rounded:
            return (
                f"{self.path}: its scores are not multiples of {SCORE_STEP}, so the Hugging Face tokenizer can differ "
                "on a text in thousands, and the export would then be refused; "
                "`pause-megatron tokenizer --from-tokenizer` rounds them"
            )
        return None

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; nothing is added before or after."""
        if len(text) > cutting.PIECE_CHARACTERS:
            long: list[int] = self.encode_batch([text])[0].tolist()
            return long
        return self.backend.encode(text)

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of all ``texts`` one after the other, and how many each has.

        On one thread: preprocessing has a process for every core. Returns ids of shape ``[tokens]`` and lengths of
        shape ``[texts]``.
        """
        return encode_in_pieces(texts, self.backend.cuts, self.backend.encode_batch)

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; pauses, ends of documents and other special tokens have none.

        ``decode(encode(text)) == text`` for tokenizers trained here, save that U+2581, SentencePiece's own sign for a
        space, comes back as a space. Others may normalise a text, and not have all characters.
        """
        return self.backend.decode(ids)


def find_tokenizer_file(path: Path) -> Path:
    """The file of the tokenizer at ``path``, a folder or already a file.

    Of both kinds in one folder the ``tokenizer.json`` counts: it is what Hugging Face's models there are used with.
    """
    if not path.is_dir():
        return path
    names = (TOKENIZER_FILE, MODEL_FILE)
    found = [path / name for name in names if (path / name).exists()] or sorted(path.glob("*.model"))
    if not found:
        raise UserError(f"tokenizer {path}: no {' or '.join(names)} in this folder; {_HOW_TO_MAKE_ONE}")
    return found[0]


def read_tokenizer_file(file: Path) -> bytes:
    """Content of ``file``. Raises :class:`UserError` when it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer {file}: {error.strerror or error}; {_HOW_TO_MAKE_ONE}") from error


def open_backend(path: Path, content: bytes) -> SentencePieceBackend | TokenizersBackend:
    """The backend for ``content``, that of ``path``, by the name of the file."""
    if path.suffix == ".json":
        return TokenizersBackend(path, content)
    return SentencePieceBackend(path, content)
