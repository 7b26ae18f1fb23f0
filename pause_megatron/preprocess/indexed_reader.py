"""Megatron-core's indexed dataset format, read in pieces: what merging, verifying and inspecting open files with.

The layout of the ``.idx`` file is in :mod:`~pause_megatron.preprocess.indexed_writer`. Nothing is mapped or kept, so
memory is what the caller asks for, and a file that was damaged is told from one that was written so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.preprocess.indexed_writer import DTYPE_CODES, HEADER, MAGIC, VERSION, index_size

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
