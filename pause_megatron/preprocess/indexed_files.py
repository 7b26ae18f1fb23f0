"""Writer and reader of Megatron-core's indexed dataset format, without loading a file as a whole.

The writer produces the same bytes as ``megatron.core.datasets.indexed_dataset.IndexedDatasetBuilder``. The ``.bin``
file holds the token ids of all sequences one after another. The ``.idx`` file, little-endian, holds

====================  =====================================================================
``MMIDIDX\\0\\0``       magic, 9 bytes
uint64                version, 1
uint8                 code of the token dtype, :data:`DTYPE_CODES`
uint64, uint64        number of sequences; number of document boundaries
int32[sequences]      length of each sequence in tokens
int64[sequences]      first byte of each sequence in the ``.bin`` file
int64[boundaries]     sequence index where each document starts, and the end of the last
====================  =====================================================================

In this project every stored sequence is its own document, so there is one more boundary than sequences.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError

DTYPE_CODES: dict[np.dtype[np.generic], int] = {np.dtype(np.int32): 4, np.dtype(np.uint16): 8}  # Megatron's ``DType``
MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct(f"<{len(MAGIC)}sQBQQ")  # magic, version, dtype code, sequences, document boundaries
SEQUENCES_AT_ONCE = 1 << 16  # index entries in memory at a time

_DTYPES: dict[int, np.dtype[np.generic]] = {code: dtype for dtype, code in DTYPE_CODES.items()}


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """Return Megatron's dtype for token ids of this vocabulary: uint16 below 65,500 tokens, else int32."""
    return np.dtype(np.uint16 if vocab_size < 65_500 else np.int32)


def index_size(sequences: int) -> int:
    """Return the size in bytes of the ``.idx`` file of ``sequences`` sequences."""
    return HEADER.size + (4 + 8) * sequences + 8 * (sequences + 1)


def index_bytes(sequence_lengths: NDArray[np.int32], dtype: np.dtype[np.generic]) -> bytes:
    """Return the ``.idx`` file for sequences of these lengths (tokens) stored as ``dtype``."""
    return b"".join(stream_index(lambda: [sequence_lengths], len(sequence_lengths), dtype))


def stream_index(
    lengths: Callable[[], Iterable[NDArray[np.int32]]], sequences: int, dtype: np.dtype[np.generic]
) -> Iterator[bytes]:
    """Yield the ``.idx`` file in chunks.

    ``lengths``, called twice, returns the lengths of all ``sequences`` (tokens) in arrays of any size.
    """
    yield HEADER.pack(MAGIC, VERSION, DTYPE_CODES[dtype], sequences, sequences + 1)
    for some in lengths():
        yield some.astype("<i4").tobytes()
    first_byte = 0
    for some in lengths():
        offsets = np.zeros(len(some) + 1, dtype="<i8")
        np.cumsum(some, dtype=np.int64, out=offsets[1:])  # tokens before each sequence, and their total
        offsets = first_byte + offsets * dtype.itemsize
        yield offsets[:-1].tobytes()
        first_byte = int(offsets[-1])
    for start, stop in chunk_ranges(0, sequences + 1, SEQUENCES_AT_ONCE):
        yield np.arange(start, stop, dtype="<i8").tobytes()


@dataclass(frozen=True)
class IndexFile:
    """An ``.idx`` file with a valid header and the size that its header implies."""

    path: Path
    dtype: np.dtype[np.generic]
    """Dtype of the tokens in the ``.bin`` file."""
    sequences: int

    @classmethod
    def open(cls, path: Path) -> IndexFile:
        """Read and check the header. Raises :class:`UserError` that names the file, the fault and its byte."""
        try:
            with open(path, "rb") as file:
                header = file.read(HEADER.size)
            magic, version, code, sequences, boundaries = HEADER.unpack(header)
        except (OSError, struct.error) as error:
            raise UserError(f"{path}: not a readable index of an indexed dataset: {error}") from error
        if magic != MAGIC:
            raise UserError(f"{path}: begins with {magic!r}, expected {MAGIC!r} at byte 0")
        if version != VERSION:
            raise UserError(f"{path}: version {version} at byte 9, expected {VERSION}")
        if code not in _DTYPES:
            known = ", ".join(f"{code} ({dtype})" for code, dtype in _DTYPES.items())
            raise UserError(f"{path}: token dtype {code} at byte 17, expected one of {known}")
        if boundaries != sequences + 1:
            raise UserError(
                f"{path}: {boundaries} document boundaries at byte 26, expected one more than its {sequences} sequences"
            )
        if (size := path.stat().st_size) != index_size(sequences):
            raise UserError(
                f"{path}: has {size} bytes, expected {index_size(sequences)} for the {sequences} sequences at byte 18"
            )
        return cls(path, _DTYPES[code], sequences)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Return the lengths in tokens of sequences ``start`` to ``stop - 1``."""
        return np.fromfile(self.path, "<i4", stop - start, offset=HEADER.size + 4 * start)

    def offsets_start(self) -> int:
        """Byte of the first offset."""
        return HEADER.size + 4 * self.sequences

    def offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the first bytes in the ``.bin`` file of sequences ``start`` to ``stop - 1``."""
        return np.fromfile(self.path, "<i8", stop - start, offset=self.offsets_start() + 8 * start)

    def boundaries_start(self) -> int:
        """Byte of the first document boundary."""
        return HEADER.size + 12 * self.sequences

    def boundaries(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return document boundaries ``start`` to ``stop - 1``, as sequence indices."""
        return np.fromfile(self.path, "<i8", stop - start, offset=self.boundaries_start() + 8 * start)


def chunk_ranges(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut the range ``start`` to ``stop - 1`` into ranges (first, stop) of at most ``size``."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)
