"""A shard's tokens in pieces of bounded size, each with what places it: the sequences it begins, holds and ends in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.preprocess.indexed_reader import SEQUENCES_AT_ONCE, spans
from pause_megatron.preprocess.parts import Part

TOKENS_AT_ONCE = 1 << 18
"""Bounds memory: a few tens of bytes for each of these tokens."""

_HASHED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one shard. Positions are indices into ``tokens``."""

    part: Part
    tokens: NDArray[np.integer]
    """Token ids, shape ``[tokens]``."""
    pause_id: int
    first_token: int
    """Place of the first token in the shard."""
    first_sequence: int
    """Index in the shard of the sequence that the first token belongs to."""
    starts: NDArray[np.int64]
    """Positions where the sequences of this piece start; the first is negative if it started in an earlier piece."""
    ends: NDArray[np.int64]
    """Positions behind the sequences' last tokens; the last is beyond the piece if it goes on in the next one."""

    @cached_property
    def is_pause(self) -> NDArray[np.bool_]:
        """Which tokens are pauses; shape ``[tokens]``."""
        mask: NDArray[np.bool_] = self.tokens == self.pause_id
        return mask

    @cached_property
    def pauses(self) -> NDArray[np.int64]:
        """Positions of the pauses."""
        return np.flatnonzero(self.is_pause)

    @property
    def starts_here(self) -> NDArray[np.int64]:
        """Positions of first tokens of sequences."""
        return self.starts[1:] if self.starts[0] < 0 else self.starts

    @property
    def finished(self) -> int:
        """How many of the sequences end in this piece: all, or all but the last."""
        return len(self.ends) - int(self.ends[-1] > len(self.tokens))

    def where(self, position: int) -> str:
        """File, sequence, token and byte of the token at ``position``, for messages."""
        place = int(np.searchsorted(self.starts, position, side="right")) - 1
        sequence = self.part.first_sequence + self.first_sequence + place
        byte = self.part.first_byte + (self.first_token + position) * self.tokens.itemsize
        return f"{self.part.label}: sequence {sequence}, token {position - int(self.starts[place])} (byte {byte})"

    def where_sequence(self, place: int) -> str:
        """File and sequence of the piece's sequence number ``place``, for messages."""
        return f"{self.part.label}: sequence {self.part.first_sequence + self.first_sequence + place}"


def read_pieces(
    part: Part, lengths: Iterable[NDArray[np.int32]], dtype: np.dtype[np.generic], pause_id: int, digest: Any | None
) -> Iterator[Piece]:
    """Read the shard ``part``, whose sequences have these ``lengths`` (tokens, in pieces of any size).

    All bytes read go into ``digest`` (of :mod:`hashlib`), if there is one.
    """
    first_sequence = first_token = 0
    with open(part.bin_path, "rb") as file:
        file.seek(part.first_byte)
        for some in lengths:
            ends = np.cumsum(some, dtype=np.int64)
            starts = ends - some
            for start, stop in spans(0, int(ends[-1]) if len(ends) else 0, TOKENS_AT_ONCE):
                here = slice(int(np.searchsorted(starts, start, side="right")) - 1, int(np.searchsorted(starts, stop)))
                content = _read(file, (stop - start) * dtype.itemsize)
                if digest is not None:
                    digest.update(content)
                yield Piece(
                    part=part,
                    tokens=np.frombuffer(content, dtype=dtype),
                    pause_id=pause_id,
                    first_token=first_token + start,
                    first_sequence=first_sequence + here.start,
                    starts=starts[here] - start,
                    ends=ends[here] - start,
                )
            first_sequence += len(some)
            first_token += int(ends[-1]) if len(ends) else 0


def equal_lengths(sequences: int, seq_length: int) -> Iterator[NDArray[np.int32]]:
    """Lengths of ``sequences`` sequences of ``seq_length`` tokens, in pieces."""
    for start, stop in spans(0, sequences, SEQUENCES_AT_ONCE):
        yield np.full(stop - start, seq_length, dtype=np.int32)


def sha256_of(path: Path, start: int, size: int) -> str:
    """SHA-256 of ``size`` bytes of ``path`` from byte ``start`` on."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(start)
        for first, after in spans(0, size, _HASHED_AT_ONCE):
            digest.update(_read(file, after - first))
    return digest.hexdigest()


def _read(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise UserError(f"{file.name}: became shorter while it was read; verify it when nothing else writes to it")
    return content
