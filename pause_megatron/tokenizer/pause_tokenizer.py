"""Text to token ids and back, with the ids of ``<pause>`` and of the end of a document checked at loading.

``<pause>`` is a *control symbol* of the SentencePiece model: it has an id, but no text is ever encoded to it. A
document that happens to contain the characters ``<pause>`` keeps them as text, and pauses enter by id alone.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.model_file import round_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentencepiece import SentencePieceProcessor

MODEL_FILE = "tokenizer.model"
"""Name of the SentencePiece model in a tokenizer folder."""
PAUSE_PIECE = "<pause>"
END_OF_DOCUMENT_PIECE = "</s>"

_HOW_TO_MAKE_ONE = "make one with `pause-megatron tokenizer`, or with SentencePiece and --control_symbols='<pause>'"


class PauseTokenizer:
    """A SentencePiece model that knows ``<pause>`` and an end-of-document token.

    Attributes: ``path`` (the ``.model`` file), ``sha256`` (of that file, hexadecimal), ``vocab_size`` (tokens, special
    ones included), ``pause_id``, ``eod_id`` (SentencePiece's ``eos``), ``processor`` (the SentencePiece object) and
    ``encoder_name`` (the library that encodes).
    """

    encoder_name = "sentencepiece"

    def __init__(self, path: Path, model: bytes) -> None:
        """Check ``model``, the content of ``path``; use :meth:`load` to read it."""
        self.path = path
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.processor = _parse(path, model)
        self.vocab_size: int = self.processor.vocab_size()
        self.eod_id: int = self.processor.eos_id()
        self.pause_id: int = self.processor.piece_to_id(PAUSE_PIECE)
        if self.processor.id_to_piece(self.pause_id) != PAUSE_PIECE:
            raise UserError(f"{path}: this SentencePiece model has no {PAUSE_PIECE} token; {_HOW_TO_MAKE_ONE}")
        if not self.processor.is_control(self.pause_id):
            raise UserError(
                f"{path}: {PAUSE_PIECE} is an ordinary piece of this model, so that text could be encoded to a pause; "
                f"it must be a control symbol: {_HOW_TO_MAKE_ONE}"
            )
        if self.eod_id < 0:
            raise UserError(
                f"{path}: this SentencePiece model has no end-of-document token; train it with an eos token "
                "(--eos_id, piece </s>)"
            )

    @classmethod
    def load(cls, path: Path | str) -> PauseTokenizer:
        """Load a tokenizer from its folder or its ``.model`` file.

        Raises :class:`UserError` when there is none, when it is no SentencePiece model, or when ``<pause>`` or the end
        of a document has no id of its own there.
        """
        path = Path(path)
        file = path / MODEL_FILE if path.is_dir() else path
        try:
            return cls(file, file.read_bytes())
        except OSError as error:
            raise UserError(f"tokenizer {file}: {error.strerror or error}; {_HOW_TO_MAKE_ONE}") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; nothing is added before or after."""
        ids: list[int] = self.processor.encode(text)
        return ids

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of all ``texts`` one after the other, and how many each has.

        On one thread: preprocessing has a process for every core. Returns ids of shape ``[tokens]`` and lengths of
        shape ``[texts]``.
        """
        if not texts:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        encoded = self.processor.encode(texts, return_type="numpy", num_threads=1)
        lengths = np.fromiter((ids.size for ids in encoded), dtype=np.int64, count=len(encoded))
        return np.concatenate(encoded), lengths

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; pauses and ends of documents have none.

        ``decode(encode(text)) == text`` for tokenizers trained here, save that U+2581, SentencePiece's own sign for a
        space, comes back as a space.
        """
        text: str = self.processor.decode(ids)
        return text


def _parse(path: Path, model: bytes) -> SentencePieceProcessor:
    """Parse ``model``, with its scores rounded as training does it, for the sake of models trained elsewhere."""
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor.from_proto(round_scores(model))
    except (RuntimeError, LookupError, struct.error) as error:
        raise UserError(f"{path}: not a SentencePiece model; give a tokenizer folder or a .model file") from error
