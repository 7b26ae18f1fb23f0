"""The parts of a SentencePiece ``.model`` file that SentencePiece's Python interface does not show.

The file is a protocol buffer (``sentencepiece_model.proto``); the few fields needed here take less code than the
protobuf package would. Loading uses :func:`read_settings`, training and taking over :func:`round_scores`, and
``pause-megatron tokenizer --from-tokenizer`` :func:`append_control_piece`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

SCORE_STEP = 1 / 64
"""Unigram scores (log-probabilities, in nats) are kept as multiples of this.

SentencePiece adds scores up in float32, `tokenizers` in float64, and where two segmentations of a long text come out
nearly equal the rounding of float32 decides. Sums of multiples of 1/64 are exact in both up to 2**18 nats (some 30,000
tokens), so the two libraries cannot disagree; a step this small does not change what the model prefers. Models trained
elsewhere have other scores: of 12,000 texts, of C4 and others, 1 and 28 then came out differently in the two libraries
(with and without SentencePiece's own normalisation), and rounding changed 385 and 183.
"""

# sentencepiece_model.proto: ModelProto.pieces, .trainer_spec, .normalizer_spec, and fields of these messages.
_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _WHITESPACE_AS_SUFFIX = 3, 24
_NORMALIZER_NAME, _CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES, _ESCAPE_WHITESPACES = 1, 2, 3, 4, 5
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_VARINT, _LENGTH_DELIMITED, _FIXED32 = 0, 2, 5
_WIDTHS = {1: 8, _FIXED32: 4}
"""Bytes that values of the other wire types take."""


class PieceType(IntEnum):
    """What a piece is for (``ModelProto.SentencePiece.Type``)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class ModelSettings:
    """How a SentencePiece model segments and normalises."""

    model_type: str
    """``unigram``, ``bpe``, ``word`` or ``char``."""
    normalizer: str
    """Name of the normalisation rules: ``identity``, ``nmt_nfkc``, ...; empty when there is none."""
    precompiled_charsmap: bytes
    """Character replacements in SentencePiece's compiled form; empty for the identity."""
    add_dummy_prefix: bool
    """Whether a space is put before every text."""
    remove_extra_whitespaces: bool
    """Whether spaces at the ends are dropped and runs of spaces become one."""
    marks_spaces_in_front: bool
    """Whether pieces carry a space as U+2581 before a word, which is the rule; not behind it, nor as it is."""

    @property
    def is_unigram(self) -> bool:
        """Whether the most probable segmentation is chosen, by the sum of scores."""
        return self.model_type == "unigram"

    @property
    def is_bpe(self) -> bool:
        """Whether pieces are merged pair by pair, in the order of scores."""
        return self.model_type == "bpe"


def read_settings(model: bytes) -> ModelSettings:
    """The settings stored in ``model``, the content of a ``.model`` file; absent fields have the format's defaults."""
    trainer: dict[int, tuple[int, int]] = {}
    normalizer: dict[int, tuple[int, int]] = {}
    for number, start, end in _fields(model, 0, len(model)):
        if number in (_TRAINER_SPEC, _NORMALIZER_SPEC):
            spec = trainer if number == _TRAINER_SPEC else normalizer
            spec.update({inner: (value, value_end) for inner, value, value_end in _fields(model, start, end)})

    def small_integer(spec: dict[int, tuple[int, int]], number: int, default: int) -> int:
        return model[spec[number][0]] if number in spec else default

    def content(number: int) -> bytes:
        return model[slice(*normalizer.get(number, (0, 0)))]

    return ModelSettings(
        model_type=_MODEL_TYPES.get(small_integer(trainer, _MODEL_TYPE, 1), "unknown"),
        normalizer=content(_NORMALIZER_NAME).decode(),
        precompiled_charsmap=content(_CHARSMAP),
        add_dummy_prefix=bool(small_integer(normalizer, _ADD_DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(small_integer(normalizer, _REMOVE_EXTRA_WHITESPACES, 1)),
        marks_spaces_in_front=bool(small_integer(normalizer, _ESCAPE_WHITESPACES, 1))
        and not small_integer(trainer, _WHITESPACE_AS_SUFFIX, 0),
    )


def read_piece_types(model: bytes) -> list[PieceType]:
    """The type of each piece of ``model``, in the order of their ids."""
    types = []
    for number, start, end in _fields(model, 0, len(model)):
        if number == _PIECES:
            found = [model[value] for inner, value, _ in _fields(model, start, end) if inner == _PIECE_TYPE]
            types.append(PieceType(found[-1]) if found else PieceType.NORMAL)
    return types


def round_scores(model: bytes) -> bytes:
    """``model``, the content of a ``.model`` file, with every score rounded to a multiple of :data:`SCORE_STEP`."""
    rounded = bytearray(model)
    for number, start, end in _fields(model, 0, len(model)):
        if number == _PIECES:
            for inner, value, _ in _fields(model, start, end):
                if inner == _PIECE_SCORE:
                    (score,) = struct.unpack_from("<f", model, value)
                    struct.pack_into("<f", rounded, value, round(score / SCORE_STEP) * SCORE_STEP)
    return bytes(rounded)


def append_control_piece(model: bytes, piece: str) -> bytes:
    """``model``, the content of a ``.model`` file, with the control symbol ``piece`` after its last piece."""
    text = piece.encode()
    message = b"".join(
        (
            _key(_PIECE_TEXT, _LENGTH_DELIMITED) + _as_varint(len(text)) + text,
            _key(_PIECE_SCORE, _FIXED32) + struct.pack("<f", 0.0),
            _key(_PIECE_TYPE, _VARINT) + _as_varint(PieceType.CONTROL),
        )
    )
    # Elements of a repeated field may stand anywhere; their order is that of the file.
    return model + _key(_PIECES, _LENGTH_DELIMITED) + _as_varint(len(message)) + message


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each field's value in the protocol buffer message ``data[start:end]``."""
    while start < end:
        key, start = _varint(data, start)
        wire_type = key & 7
        if wire_type == _VARINT:
            _, value_end = _varint(data, start)
        elif wire_type == _LENGTH_DELIMITED:
            length, start = _varint(data, start)
            value_end = start + length
        else:
            value_end = start + _WIDTHS[wire_type]
        yield key >> 3, start, value_end
        start = value_end


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The variable-length integer at ``start``, and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, start
        shift += 7


def _key(number: int, wire_type: int) -> bytes:
    return _as_varint(number << 3 | wire_type)


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
