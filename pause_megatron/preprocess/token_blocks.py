"""Reads the tokens of a shard in blocks of complete sequences, or of one part of a very long document."""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.pauses.pause_ids import is_pause
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import SEQUENCES_AT_ONCE, IndexFile, chunk_ranges, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan, stored_lengths

TOKENS_AT_ONCE = 1 << 18  # of a block, unless one sequence of fixed length has more
_HASHED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class TokenBlock:
    """Consecutive tokens of one shard: complete sequences, or one part of a long document."""

    span: ShardSpan
    tokens: NDArray[np.integer]
    """Token ids, shape ``[tokens]``."""
    pause_ids: range
    first_token: int
    """Index in the shard of the first token."""
    first_sequence: int
    """Index in the shard of the first sequence."""
    lengths: NDArray[np.int64]
    """Stored length of each sequence, shape ``[sequences]``; for a part of a document, of the complete document."""
    offset: int
    """Tokens of the document before this part; 0 for complete sequences."""

    @cached_property
    def is_pause(self) -> NDArray[np.bool_]:
        """Which tokens are pauses, shape ``[tokens]``."""
        mask: NDArray[np.bool_] = is_pause(self.tokens, self.pause_ids)
        return mask

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Index into ``tokens`` behind the last token of each sequence; beyond the block if the document continues."""
        return np.cumsum(self.lengths, dtype=np.int64) - self.offset

    @property
    def starts(self) -> NDArray[np.int64]:
        """Index into ``tokens`` of the first token of each sequence; negative if it lies in an earlier block."""
        return self.ends - self.lengths

    @property
    def lengths_here(self) -> NDArray[np.int64]:
        """Tokens of each sequence in this block, shape ``[sequences]``."""
        return np.minimum(self.ends, len(self.tokens)) - np.maximum(self.starts, 0)

    def where(self, position: int) -> str:
        """Name file, sequence, token and byte of the token at index ``position``, for messages."""
        place = int(np.searchsorted(self.ends, position, side="right"))
        byte = self.span.first_byte + (self.first_token + position) * self.tokens.itemsize
        sequence = self.span.first_sequence + self.first_sequence + place
        return f"{self.span.label()}: sequence {sequence}, token {position - int(self.starts[place])} (byte {byte})"


def read_blocks(
    span: ShardSpan, settings: DatasetSettings, *, share: float = 1.0, digest: Any | None = None
) -> Iterator[TokenBlock]:
    """Read the first sequences of ``span``, with about ``share`` of its tokens, and update the hash ``digest``."""
    first_sequence = first_token = 0
    with open(span.bin_path, "rb") as file:
        file.seek(span.first_byte)
        for lengths in _lengths(span, settings, share):
            for group in _groups(lengths.astype(np.int64)):
                size, offset = int(group.sum()), 0
                while offset < size:
                    tokens = _read_tokens(file, size - offset, settings)
                    if digest is not None:
                        digest.update(tokens.data)
                    yield TokenBlock(span, tokens, settings.pause_ids, first_token, first_sequence, group, offset)
                    offset += len(tokens)
                    first_token += len(tokens)
                first_sequence += len(group)


def _lengths(span: ShardSpan, settings: DatasetSettings, share: float) -> Iterator[NDArray[np.int32]]:
    """Yield the lengths of the first sequences, which have ``share`` of the shard's tokens, in several arrays."""
    if settings.seq_length:
        for start, stop in chunk_ranges(0, math.ceil(share * span.shard.sequences), SEQUENCES_AT_ONCE):
            yield np.full(stop - start, settings.seq_length, dtype=np.int32)
        return
    left = share * span.shard.tokens
    for lengths in stored_lengths(span, IndexFile.open(span.idx_path)):
        ends = np.cumsum(lengths, dtype=np.int64)
        yield lengths[: int(np.searchsorted(ends, left)) + 1]
        left -= int(ends[-1])
        if left <= 0:
            return


def _groups(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut ``lengths`` into groups of at most :data:`TOKENS_AT_ONCE` tokens; a longer sequence is its own group."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        limit = int(ends[start] - lengths[start]) + TOKENS_AT_ONCE
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield lengths[start:stop]
        start = stop


def _read_tokens(file: IO[bytes], size: int, settings: DatasetSettings) -> NDArray[np.integer]:
    """Read ``size`` tokens, or the next part of a long document, which ends with a real token to keep runs complete."""
    dtype = token_dtype(settings.vocab_size)
    if settings.seq_length or size <= TOKENS_AT_ONCE:
        return np.frombuffer(_read(file, size * dtype.itemsize), dtype)
    tokens = np.frombuffer(_read(file, TOKENS_AT_ONCE * dtype.itemsize), dtype)
    behind = int(
        np.argmax(~is_pause(tokens[::-1], settings.pause_ids))
    )  # pauses at the end; 0 if all tokens are pauses
    file.seek(-behind * dtype.itemsize, os.SEEK_CUR)
    return tokens[: len(tokens) - behind]


def sha256_of(path: Path, start: int, size: int) -> str:
    """Return the SHA-256 of ``size`` bytes of ``path`` from byte ``start``."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(start)
        for first, after in chunk_ranges(0, size, _HASHED_AT_ONCE):
            digest.update(_read(file, after - first))
    return digest.hexdigest()


def _read(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise UserError(f"{file.name}: became shorter during reading; run again when nothing else writes to it")
    return content
