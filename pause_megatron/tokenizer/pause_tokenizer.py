"""Tokenizer that encodes and decodes text, and checks the ids of ``<pause>`` and end-of-document when it loads.

``<pause>`` is a *control symbol* of a SentencePiece model, or a *special token* of a Hugging Face tokenizer: it has an
id, but no text is encoded to it. A document that contains the characters ``<pause>`` or ``</s>`` keeps them as text.
Pauses and end-of-document tokens are only inserted as ids.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pause_megatron.errors import UserError, one_line
from pause_megatron.records.files import read_json
from pause_megatron.tokenizer import chunking
from pause_megatron.tokenizer.chunking import encode_in_chunks
from pause_megatron.tokenizer.model_file import SCORE_STEP
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.tokenizers_backend import TOKENIZER_FILE, TokenizersBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_FILE = "tokenizer.model"
MANIFEST_FILE = "manifest.json"
FORMAT = "pause_megatron/tokenizer/1"
"""Key ``format`` of the manifest."""
PAUSE_TOKEN = "<pause>"
_DISTINCT_PAUSE = "<pause{}>"
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
    """A tokenizer with ``<pause>`` and an end-of-document token.

    Attributes: ``path`` (the ``.model`` file or ``tokenizer.json``), ``sha256`` (of that file, hexadecimal),
    ``vocab_size`` (largest id plus one, including special and added tokens), ``pause_ids`` (of ``<pause>``, or of
    distinct pauses in a row), ``pause_id`` (the first of them), ``eod_id`` (``eos`` of SentencePiece, ``eos_token`` of
    Hugging Face), ``bos_ids`` (the beginning-of-text token if the tokenizer puts one
    before a text, else empty; few tokenizers put several), ``encoder_name`` (the library that encodes:
    ``sentencepiece`` or ``tokenizers``) and ``backend``.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        """Check ``content``, the bytes of ``path``; use :meth:`load` to read a file."""
        self.path = path
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.backend = open_backend(path, content)
        self.encoder_name: str = self.backend.encoder_name
        self.vocab_size: int = self.backend.vocab_size
        pause_ids, eod_id = find_pauses(self.backend), self.backend.eod_id
        if not pause_ids:
            raise UserError(
                f"{path}: no {PAUSE_TOKEN} token; add it with "
                f"`pause-megatron tokenizer --from-tokenizer {path} --output FOLDER`"
            )
        if eod_id is None:
            raise UserError(f"{path}: {self.backend.no_end_of_document()}")
        self.pause_ids: range = pause_ids
        self.pause_id: int = pause_ids[0]
        self.eod_id: int = eod_id
        self.bos_ids: tuple[int, ...] = self.backend.bos_ids

    @classmethod
    def load(cls, path: Path | str) -> PauseTokenizer:
        """Load a tokenizer from its folder, its ``.model`` file or its ``tokenizer.json``.

        Raises :class:`UserError` if the file is missing or not a tokenizer, if it differs from its checksum in
        ``manifest.json``, or if ``<pause>`` or end-of-document has no id that text is never encoded to.
        """
        file = find_tokenizer_file(Path(path))
        content = read_tokenizer_file(file)
        manifest = file.with_name(MANIFEST_FILE)
        written = read_json(manifest) if manifest.is_file() else None
        entries = written if isinstance(written, dict) else {}
        is_of_file = (entries.get("format"), entries.get("file")) == (FORMAT, file.name)
        if is_of_file and entries.get("sha256") != hashlib.sha256(content).hexdigest():
            raise UserError(
                f"{file}: has changed since it was written (see sha256 in {MANIFEST_FILE}); copy the folder again, or"
                f" remove {MANIFEST_FILE} if you changed it"
            )
        return cls(file, content)

    @property
    def distinct_pauses(self) -> int | None:
        """Number of distinct pauses; None with one ``<pause>``."""
        return len(self.pause_ids) if len(self.pause_ids) > 1 else None

    @property
    def pause_names(self) -> tuple[str, ...]:
        """Names of the pauses, in the order of their ids."""
        return pause_names(len(self.pause_ids))

    @property
    def caveat(self) -> str | None:
        """Warning about data written with this tokenizer; None if there is no reason for one."""
        if isinstance(self.backend, SentencePieceBackend) and not self.backend.scores_are_rounded:
            return (
                f"{self.path}: scores are not multiples of {SCORE_STEP}, so the Hugging Face tokenizer can differ on "
                "about one text in thousands, and the export is then refused; "
                "round them with `pause-megatron tokenizer --from-tokenizer`"
            )
        return None

    @property
    def document_start(self) -> tuple[int, ...]:
        """Ids before each document of a dataset: :attr:`bos_ids`, unless they are the end of the document before."""
        return () if self.eod_id in self.bos_ids else self.bos_ids

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; nothing is added before or after."""
        if len(text) > chunking.CHUNK_CHARACTERS:
            return list(self.encode_batch([text])[0].tolist())
        return self.backend.encode(text)

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of all ``texts`` in a row, shape ``[tokens]``, and the number of ids per text, shape ``[texts]``.

        Uses one thread, since preprocessing has a process for every core.
        """
        return encode_in_chunks(texts, self.backend.cuts, self.backend.encode_batch)

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; pauses, end-of-document and other special tokens give no text.

        ``decode(encode(text)) == text`` for tokenizers trained by this project, except that U+2581, SentencePiece's
        marker for a space, becomes a space. Other tokenizers can normalise text, or lack characters.
        """
        return self.backend.decode(ids)


def pause_names(count: int) -> tuple[str, ...]:
    """Return ``("<pause>",)``, or ``("<pause1>", ..., "<pauseN>")`` for ``count`` distinct pauses."""
    return (PAUSE_TOKEN,) if count == 1 else tuple(map(_DISTINCT_PAUSE.format, range(1, count + 1)))


def find_pauses(backend: SentencePieceBackend | TokenizersBackend) -> range:
    """Return the ids of ``<pause>``, or of ``<pause1>``, ``<pause2>`` and so on; empty without pauses.

    A tokenizer with both has distinct pauses: they were added to one that had ``<pause>``, which stays unused.

    Raises :class:`UserError` if text can be encoded to one of them, or if the ids of distinct pauses are not in a row.
    """
    only = backend.special_id(PAUSE_TOKEN)
    found: list[int] = []
    while (pause_id := backend.special_id(_DISTINCT_PAUSE.format(len(found) + 1))) is not None:
        found.append(pause_id)
    if not found:
        return range(0) if only is None else range(only, only + 1)
    if len(found) == 1 or found != list(range(found[0], found[0] + len(found))):
        raise UserError(
            f"{backend.path}: {_DISTINCT_PAUSE.format(1)} and the further pauses have the ids {found}, not two or more"
            " in a row; make another tokenizer with `pause-megatron tokenizer --distinct-pauses`"
        )
    return range(found[0], found[0] + len(found))


def find_tokenizer_file(path: Path) -> Path:
    """File of the tokenizer at ``path``, a folder or a file.

    In a folder with both kinds, ``tokenizer.json`` takes precedence, because Hugging Face models are used with it.
    """
    if not path.is_dir():
        return path
    names = (TOKENIZER_FILE, MODEL_FILE)
    found = [path / name for name in names if (path / name).exists()] or sorted(path.glob("*.model"))
    if not found:
        raise UserError(f"tokenizer {path}: no {' or '.join(names)} in this folder; {_HOW_TO_MAKE_ONE}")
    return found[0]


def read_tokenizer_file(file: Path) -> bytes:
    """Content of ``file``. Raises :class:`UserError` if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer {file}: {error.strerror or error}; {_HOW_TO_MAKE_ONE}") from error


def open_backend(path: Path, content: bytes) -> SentencePieceBackend | TokenizersBackend:
    """Backend for ``content``, the bytes of ``path``, chosen by the suffix of the file."""
    if path.suffix == ".json":
        try:
            return TokenizersBackend(path, content)
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"{path}: not the tokenizer.json of a fast tokenizer ({reason}); fetch it again") from error
    return SentencePieceBackend(path, content)


def excerpt(text: str) -> str:
    """Quoted start of ``text``, at most 60 characters, for error messages."""
    return repr(text if len(text) <= 60 else text[:60] + "…")
