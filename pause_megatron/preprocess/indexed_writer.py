"""Megatron-core's indexed dataset format, written in bulk.

``megatron.core.datasets.indexed_dataset`` reads what is written here; its ``IndexedDatasetBuilder`` writes the same
bytes, one Python object at a time. The ``.bin`` file is the token ids of all sequences in a row and nothing else. The
``.idx`` file, little-endian, is

====================  =====================================================================
``MMIDIDX\\0\\0``       magic, 9 bytes
uint64                version, 1
uint8                 code of the token dtype, :data:`DTYPE_CODES`
uint64, uint64        number of sequences; number of document boundaries
int32[sequences]      length of each sequence in tokens
int64[sequences]      first byte of each sequence in the ``.bin`` file
int64[boundaries]     sequence index where each document starts, and the end of the last
====================  =====================================================================

:mod:`~pause_megatron.preprocess.indexed_reader` reads it in pieces. Here every sequence is a document of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

DTYPE_CODES: dict[np.dtype[np.generic], int] = {np.dtype(np.int32): 4, np.dtype(np.uint16): 8}
"""Code of each token dtype used here; the format's ``DType``."""
MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct(f"<{len(MAGIC)}sQBQQ")
"""Magic, version, dtype code, number of sequences, number of document boundaries."""

_UINT16_VOCABULARY = 65_500
_BOUNDARIES_AT_ONCE = 1 << 16


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """The dtype Megatron stores a vocabulary of this size in: uint16 below 65,500, else int32."""
    return np.dtype(np.uint16 if vocab_size < _UINT16_VOCABULARY else np.int32)


def index_size(sequences: int) -> int:
    """Bytes of the ``.idx`` file of so many sequences, each a document of its own."""
    return HEADER.size + (4 + 8) * sequences + 8 * (sequences + 1)


def index_bytes(sequence_lengths: NDArray[np.int32], dtype: np.dtype[np.generic]) -> bytes:
    """The ``.idx`` file of sequences of these lengths (tokens), each a document of its own, stored as ``dtype``."""
    return b"".join(stream_index(lambda: [sequence_lengths], len(sequence_lengths), dtype))


def stream_index(
    lengths: Callable[[], Iterable[NDArray[np.int32]]], sequences: int, dtype: np.dtype[np.generic]
) -> Iterator[bytes]:
    """The same ``.idx`` file in pieces, so that it is never in memory as a whole.

    ``lengths`` gives, each time it is called, the lengths of all ``sequences`` (tokens) in pieces of any size; it is
    called twice, because the file holds all lengths before the first offset.
    """
    yield HEADER.pack(MAGIC, VERSION, DTYPE_CODES[dtype], sequences, sequences + 1)
    for piece in lengths():
        yield piece.astype("<i4").tobytes()
    first_byte = 0
    for piece in lengths():
        offsets = np.empty(len(piece) + 1, dtype="<i8")
        offsets[0] = 0
        np.cumsum(piece, dtype=np.int64, out=offsets[1:])
        offsets *= dtype.itemsize
        offsets += first_byte
        yield offsets[:-1].tobytes()
        first_byte = int(offsets[-1])
    for start in range(0, sequences + 1, _BOUNDARIES_AT_ONCE):
        yield np.arange(start, min(start + _BOUNDARIES_AT_ONCE, sequences + 1), dtype="<i8").tobytes()
