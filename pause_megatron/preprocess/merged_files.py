"""Several shards' files joined into one pair: the same bytes as Megatron's ``IndexedDatasetBuilder.add_index`` writes.

Linear, and without loading data: token ids are copied inside the kernel where the file system can, and the index is
written piece by piece from the lengths that the shards' indices hold.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.errors import UserError
from pause_megatron.preprocess.indexed_reader import IndexFile
from pause_megatron.preprocess.indexed_writer import stream_index
from pause_megatron.preprocess.manifest import MergedFile
from pause_megatron.preprocess.shard_spans import ShardSpan, stored_lengths

_COPIED_BY_KERNEL_AT_ONCE = 1 << 30
_COPIED_AT_ONCE = 8 << 20
_KERNEL_CANNOT = (errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
_SECONDS_BETWEEN_MESSAGES = 10


def write_merged_index(folder: Path, name: str, spans: Sequence[ShardSpan], dtype: np.dtype[np.generic]) -> MergedFile:
    """Write ``folder/name.idx`` for the shards ``spans`` joined, in memory that does not grow with them.

    ``dtype`` is that of the token ids. Raises :class:`UserError` when the index of a shard is damaged or does not fit
    the shard's manifest.
    """
    sequences = sum(span.shard.sequences for span in spans)
    digest, size = hashlib.sha256(), 0
    with open(folder / f"{name}.idx", "wb") as file:
        for piece in stream_index(lambda: _lengths(spans, dtype), sequences, dtype):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    return MergedFile(
        name=name,
        shards=len(spans),
        bin_bytes=sum(span.shard.bin_bytes for span in spans),
        idx_bytes=size,
        idx_sha256=digest.hexdigest(),
    )


def _lengths(spans: Sequence[ShardSpan], dtype: np.dtype[np.generic]) -> Iterator[NDArray[np.int32]]:
    """Lengths in tokens of all sequences of ``spans``, in pieces."""
    for span in spans:
        index = IndexFile.open(span.idx_path)
        if (index.dtype, index.sequences) != (dtype, span.file.sequences):
            raise UserError(
                f"{span.idx_path}: an index of {index.sequences} sequences of {index.dtype}, its manifest says "
                f"{span.file.sequences} of {dtype}; see `pause-megatron verify-dataset --data {span.folder}`"
            )
        tokens = 0
        for piece in stored_lengths(span, index):
            tokens += int(piece.sum(dtype=np.int64))
            yield piece
        if tokens * dtype.itemsize != span.shard.bin_bytes:
            raise UserError(
                f"{span.idx_path}: the sequences of shard {span.shard.name} have {tokens} tokens together, its "
                f"{span.shard.bin_bytes} bytes hold {span.shard.bin_bytes // dtype.itemsize}; see "
                f"`pause-megatron verify-dataset --data {span.folder}`"
            )


def write_merged_tokens(path: Path, spans: Sequence[ShardSpan]) -> None:
    """Write the ``.bin`` file ``path``: the token ids of ``spans`` one after the other."""
    said = time.monotonic()
    with open(path, "wb") as target:
        for done, span in enumerate(spans):
            with open(span.bin_path, "rb") as source:
                append_range(source.fileno(), span.first_byte, span.shard.bin_bytes, target.fileno(), span.label)
            if time.monotonic() - said > _SECONDS_BETWEEN_MESSAGES:
                said = time.monotonic()
                log.info(f"{path.name}: {done + 1} of {len(spans)} shards, {os.fstat(target.fileno()).st_size} bytes")


def append_range(source: int, start: int, size: int, target: int, name: str) -> None:
    """Append ``size`` bytes of the open file ``source``, from byte ``start`` on, to the open file ``target``.

    Inside the kernel, where blocks may even be shared instead of copied; by reading and writing where it cannot.

    Raises :class:`UserError` naming ``name`` when the source ends before that.
    """
    by_kernel = hasattr(os, "copy_file_range")
    while size:
        copied = 0
        if by_kernel:
            try:
                copied = os.copy_file_range(source, target, min(size, _COPIED_BY_KERNEL_AT_ONCE), offset_src=start)
            except OSError as error:
                if error.errno not in _KERNEL_CANNOT:
                    raise
        if not copied:
            by_kernel = False
            copied = os.write(target, os.pread(source, min(size, _COPIED_AT_ONCE), start))
        if not copied:
            raise UserError(f"{name}: ended {size} bytes too early while it was copied; it has been changed")
        start += copied
        size -= copied
