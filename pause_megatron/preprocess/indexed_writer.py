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
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

DTYPE_CODES = {np.dtype(np.int32): 4, np.dtype(np.uint16): 8}
"""Code of each token dtype used here; the format's ``DType``."""

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_UINT16_VOCABULARY = 65_500


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """The dtype Megatron stores a vocabulary of this size in: uint16 below 65,500, else int32."""
    return np.dtype(np.uint16 if vocab_size < _UINT16_VOCABULARY else np.int32)


def index_bytes(sequence_lengths: NDArray[np.int32], dtype: np.dtype[np.generic]) -> bytes:
    """The ``.idx`` file of sequences of these lengths (tokens), each a document of its own, stored as ``dtype``."""
    sequences = len(sequence_lengths)
    ends = np.cumsum(sequence_lengths, dtype=np.int64) * dtype.itemsize
    return b"".join(
        (
            _MAGIC,
            struct.pack("<QBQQ", _VERSION, DTYPE_CODES[dtype], sequences, sequences + 1),
            sequence_lengths.astype("<i4").tobytes(),
            (ends - sequence_lengths * dtype.itemsize).astype("<i8").tobytes(),
            np.arange(sequences + 1, dtype="<i8").tobytes(),
        )
    )
