"""Backend of :class:`~pause_megatron.tokenizer.pause_tokenizer.PauseTokenizer` for SentencePiece ``.model`` files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.chunking import ASCII_NEIGHBOURS, WORD_NEIGHBOURS, Cuts, find_cuts
from pause_megatron.tokenizer.hub_settings import read_hub_settings
from pause_megatron.tokenizer.model_file import PieceType, read_piece_types, read_settings, round_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACE = "▁"
"""SentencePiece's marker for a space (U+2581)."""
_LOCAL_NORMALIZERS = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")
"""SentencePiece's own rules. None of them replaces an ASCII letter or digit together with a space next to it."""


class SentencePieceBackend:
    """A SentencePiece model.

    Attributes: ``processor`` (the SentencePiece object), ``settings``, ``pieces``, ``scores`` and ``types`` (in the
    order of ids), ``scores_are_rounded`` (so other libraries give the same ids), ``is_bpe``, ``vocab_size``, ``hub``
    (settings in the files next to it), ``eod_id``, ``eos_name``, ``bos_ids`` (what stands before a text: nothing,
    unless ``tokenizer_config.json`` sets ``add_bos_token``), ``bos_name``, ``unk_id`` and ``unk_name`` (``None`` if
    absent), ``cuts``.
    """

    encoder_name = "sentencepiece"

    def __init__(self, path: Path, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self.path = path
        try:
            self.settings = read_settings(model)
            self.types = read_piece_types(model)
            self.scores_are_rounded = self.settings.model_type != "unigram" or round_scores(model) == model
            self.processor = SentencePieceProcessor.from_proto(model)
            self.vocab_size: int = self.processor.vocab_size()
            self.pieces: list[str] = self.processor.id_to_piece(list(range(self.vocab_size)))
            self.scores: list[float] = self.processor.get_score(list(range(self.vocab_size)))
        except (RuntimeError, LookupError, ValueError, struct.error) as error:
            raise UserError(f"{path}: not a SentencePiece model; give a tokenizer folder or a .model file") from error
        self.is_bpe = self.settings.model_type == "bpe"
        self.unk_id: int | None = self.processor.unk_id()
        self.unk_name: str | None = self.pieces[self.processor.unk_id()]
        eos_id: int = self.processor.eos_id()
        self.eod_id = eos_id if eos_id >= 0 else None
        self.eos_name = self.pieces[eos_id] if eos_id >= 0 else None
        self.hub = read_hub_settings(path.parent, {piece: index for index, piece in enumerate(self.pieces)})
        self.bos_name, self.bos_ids = self._beginning_of_text()
        places = self._places_to_cut()
        self.cuts: Cuts | None = find_cuts(places, self.encode) if places else None

    @property
    def control_names(self) -> list[str]:
        """Names of all control symbols, e.g. ``</s>`` and ``<pause>``."""
        return [piece for piece, kind in zip(self.pieces, self.types, strict=True) if kind is PieceType.CONTROL]

    def no_end_of_document(self) -> str:
        """Error message for a model without an end-of-document token."""
        return "no end-of-document token in this SentencePiece model; train it with an eos token (--eos_id, piece </s>)"

    def special_id(self, piece: str) -> int | None:
        """Id of the control symbol ``piece``; ``None`` if the model has no such piece.

        Raises :class:`UserError` if text can be encoded to it.
        """
        found: int = self.processor.piece_to_id(piece)
        if self.pieces[found] != piece:
            return None
        if self.types[found] is not PieceType.CONTROL:
            raise UserError(
                f"{self.path}: {piece} is an ordinary piece, so text can be encoded to it; use a model without it, "
                "and add it as a control symbol with `pause-megatron tokenizer --from-tokenizer`"
            )
        return found

    def _beginning_of_text(self) -> tuple[str | None, tuple[int, ...]]:
        """Name of the beginning-of-text token, and the ids that precede a text."""
        own: int = self.processor.bos_id()
        name = self.hub.bos_token or (self.pieces[own] if own >= 0 else None)
        if name is None or name not in self.control_names:
            return None, ()
        return name, (self.pieces.index(name),) if self.hub.add_bos_token else ()

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; nothing is added before or after."""
        ids: list[int] = self.processor.encode(text)
        return ids

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all ``texts`` in a row, and the number of ids per text."""
        encoded = self.processor.encode(texts, return_type="numpy", num_threads=1)
        return np.concatenate(encoded), np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; control symbols give no text."""
        return str(self.processor.decode(ids))

    @property
    def keeps_words_apart(self) -> bool:
        """Whether a token must begin where a space follows another character."""
        whole_words = all(space not in piece.lstrip(space) for piece in self.pieces for space in (SPACE, " "))
        # Without a piece for it, a space and an unknown character next to it become one <unk>
        return self.settings.marks_spaces_in_front and whole_words and self._is_ordinary(SPACE)

    @property
    def keeps_newlines_apart(self) -> bool:
        """Whether every newline is a token, if normalisation keeps it."""
        return [piece for piece in self.pieces if "\n" in piece] == ["\n"] and self._is_ordinary("\n")

    def _is_ordinary(self, piece: str) -> bool:
        return piece in self.pieces and self.types[self.pieces.index(piece)] is PieceType.NORMAL

    def _places_to_cut(self) -> str | None:
        settings = self.settings
        if not self.keeps_words_apart:
            return None
        if settings.precompiled_charsmap:
            return ASCII_NEIGHBOURS if settings.normalizer in _LOCAL_NORMALIZERS else None
        unchanged = not (settings.add_dummy_prefix or settings.remove_extra_whitespaces)
        return f"{WORD_NEIGHBOURS}|\n" if self.keeps_newlines_apart and unchanged else WORD_NEIGHBOURS
