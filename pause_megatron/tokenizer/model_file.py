"""The parts of a SentencePiece ``.model`` file that SentencePiece's Python interface does not show.

The file is a protocol buffer (``sentencepiece_model.proto``); reading the few fields needed here takes less than the
protobuf package would. Training and loading use :func:`round_scores`, the Hugging Face export :func:`read_settings`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SCORE_STEP = 1 / 64
"""Scores (log-probabilities, in nats) are kept as multiples of this.

SentencePiece adds scores up in float32, `tokenizers` in float64, and where two segmentations of a long text come out
nearly equal the rounding of float32 decides. Sums of multiples of 1/64 are exact in both up to 2**18 nats (some 30,000
tokens), so the two libraries cannot disagree; a step this small does not change what the model prefers.
"""

# sentencepiece_model.proto: ModelProto.pieces, .trainer_spec, .normalizer_spec, and fields of these messages.
_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3
_PIECE_SCORE = 2
_MODEL_TYPE = 3
_CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES = 2, 3, 4
_UNIGRAM = 1


@dataclass(frozen=True)
class ModelSettings:
    """How a SentencePiece model segments and normalises."""

    is_unigram: bool
    precompiled_charsmap: bytes
    """Character replacements in SentencePiece's compiled form; empty for the identity."""
    add_dummy_prefix: bool
    """Whether a space is put before every text."""
    remove_extra_whitespaces: bool
    """Whether spaces at the ends are dropped and runs of spaces become one."""


def read_settings(model: bytes) -> ModelSettings:
    """The settings stored in ``model``, the content of a ``.model`` file; absent fields have the format's defaults."""
    model_type, charsmap, dummy_prefix, extra_whitespaces = _UNIGRAM, b"", True, True
    for number, start, end in _fields(model, 0, len(model)):
        if number == _TRAINER_SPEC:
            for inner, value, _ in _fields(model, start, end):
                if inner == _MODEL_TYPE:
                    model_type = model[value]
        elif number == _NORMALIZER_SPEC:
            for inner, value, value_end in _fields(model, start, end):
                if inner == _CHARSMAP:
                    charsmap = model[value:value_end]
                elif inner == _ADD_DUMMY_PREFIX:
                    dummy_prefix = bool(model[value])
                elif inner == _REMOVE_EXTRA_WHITESPACES:
                    extra_whitespaces = bool(model[value])
    return ModelSettings(model_type == _UNIGRAM, charsmap, dummy_prefix, extra_whitespaces)


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


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each field's value in the protocol buffer message ``data[start:end]``."""
    while start < end:
        key, start = _varint(data, start)
        wire_type = key & 7
        if wire_type == 0:
            _, value_end = _varint(data, start)
        elif wire_type == 2:
            length, start = _varint(data, start)
            value_end = start + length
        else:
            value_end = start + {1: 8, 5: 4}[wire_type]
        yield key >> 3, start, value_end
        start = value_end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The variable-length integer at ``position``, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
