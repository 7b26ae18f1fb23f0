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

:mod:`~pause_megatron.preprocess.indexed_files` reads it in pieces. Here every sequence is a document of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError

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


SEQUENCES_AT_ONCE = 1 << 16
"""How many entries of an index are looked at together."""

_DTYPES: dict[int, np.dtype[np.generic]] = {code: dtype for dtype, code in DTYPE_CODES.items()}


@dataclass(frozen=True)
class IndexFile:
    """An ``.idx`` file whose header is sound and whose size is the one its header asks for."""

    path: Path
    dtype: np.dtype[np.generic]
    """Dtype of the tokens in the ``.bin`` file."""
    sequences: int

    @classmethod
    def open(cls, path: Path) -> IndexFile:
        """Read and check the header. Raises :class:`UserError` saying what is wrong with it."""
        try:
            with open(path, "rb") as file:
                header = file.read(HEADER.size)
            magic, version, code, sequences, boundaries = HEADER.unpack(header)
        except (OSError, struct.error) as error:
            raise UserError(f"{path}: no index of an indexed dataset can be read from it: {error}") from error
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
                f"{path}: has {size} bytes, but {sequences} sequences, as byte 18 says, take {index_size(sequences)}"
            )
        return cls(path, _DTYPES[code], sequences)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Lengths in tokens of the sequences from ``start`` to before ``stop``."""
        return np.fromfile(self.path, "<i4", stop - start, offset=HEADER.size + 4 * start)

    def offsets_start(self) -> int:
        """Byte of the file where the offsets begin."""
        return HEADER.size + 4 * self.sequences

    def offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        """First bytes in the ``.bin`` file of the sequences from ``start`` to before ``stop``."""
        return np.fromfile(self.path, "<i8", stop - start, offset=self.offsets_start() + 8 * start)

    def boundaries_start(self) -> int:
        """Byte of the file where the document boundaries begin."""
        return HEADER.size + 12 * self.sequences

    def boundaries(self, start: int, stop: int) -> NDArray[np.int64]:
        """Document boundaries (sequence indices) from number ``start`` to before ``stop``."""
        return np.fromfile(self.path, "<i8", stop - start, offset=self.boundaries_start() + 8 * start)


def chunk_ranges(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """The range from ``start`` to before ``stop``, cut into pieces of at most ``size``: (start, stop) of each."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)
