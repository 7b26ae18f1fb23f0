"""``pause-megatron merge-datasets``: the shards of one or several datasets joined into one or a few pairs of files.

The files are written by :mod:`~pause_megatron.preprocess.merge`. Every shard's entry stays in the manifest, so
nothing is hashed again but the new indices. The folder appears under its name when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.atomic import new_folder, sweep
from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import (
    DATASET_FILE,
    DATASET_FORMAT,
    DatasetManifest,
    MergedFile,
    differing_setting,
    load_dataset_manifest,
    write_manifest,
)
from pause_megatron.preprocess.indexed_files import IndexFile, stream_index, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan, settings_of, spans_of, stored_lengths


def merge_datasets(config: MergeDatasetsConfig) -> None:
    """Write the dataset folder ``config.output``.

    Raises :class:`UserError` for folders that are no finished datasets or cannot be joined, for more files than there
    are shards, for an output that exists, and when the disk is full. Nothing then stands under the output's name.
    """
    manifests = [load_dataset_manifest(folder) for folder in config.input]
    spans = [
        span for folder, manifest in zip(config.input, manifests, strict=True) for span in spans_of(folder, manifest)
    ]
    _check_mergeable(config.input, manifests, spans)
    groups = cut_into_files(spans, config.files)
    if alive := sweep(config.output.parent, config.output.name):
        raise UserError(f"--output {config.output}: another merge is writing it, in {alive[0]}; wait for it")
    with new_folder(config.output) as folder:
        # All indices first: they are small, and a shard that does not fit its manifest shows before the long copying.
        dtype = token_dtype(manifests[0].vocab_size)
        merged = [
            write_merged_index(folder, name, group, dtype)
            for name, group in zip(_names(len(groups)), groups, strict=True)
        ]
        for file, group in zip(merged, groups, strict=True):
            write_merged_tokens(folder / f"{file.name}.bin", group)
        manifest = _joined(manifests, merged)
        write_manifest(folder / DATASET_FILE, manifest)
    log.info(
        f"{config.output}: {len(spans)} shards in {', '.join(f'{file.name}.bin' for file in merged)}; "
        f"{manifest.sequences} sequences, {manifest.tokens} tokens"
    )


def _check_mergeable(folders: Sequence[Path], manifests: Sequence[DatasetManifest], spans: Sequence[ShardSpan]) -> None:
    first, settings = folders[0], manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        if name := differing_setting(settings, manifest):
            raise UserError(
                f"--input: {first} was written with {name} {getattr(settings, name)}, {folder} with "
                f"{getattr(manifest, name)}; datasets are merged when they were written with the same settings"
            )
    seen: dict[tuple[str, str, str], Path] = {}
    for span in spans:
        key = (span.shard.name, span.shard.input, span.shard.bin_sha256)
        if span.shard.sequences and key in seen:
            raise UserError(
                f"--input: shard {span.shard.name}, made from {span.shard.input}, is both in {seen[key]} and in "
                f"{span.folder}; its text would be there twice"
            )
        seen[key] = span.folder


def cut_into_files(spans: Sequence[ShardSpan], files: int) -> list[Sequence[ShardSpan]]:
    """Consecutive groups of ``spans``, one for each file, of about equal bytes. No file comes out empty.

    Raises :class:`UserError` when there are fewer shards with data than ``files``.
    """
    filled = [place for place, span in enumerate(spans) if span.shard.sequences]
    if len(filled) < files:
        raise UserError(f"--files {files}: there are only {len(filled)} shards with data; name at most so many")
    before = np.cumsum([0, *(spans[place].shard.bin_bytes for place in filled)])
    cuts = [0]
    for file in range(1, files):
        nearest = int(np.argmin(np.abs(before - before[-1] * file / files)))
        cuts.append(min(max(nearest, cuts[-1] + 1), len(filled) - files + file))
    starts = [0, *(filled[cut] for cut in cuts[1:]), len(spans)]
    return [spans[start:stop] for start, stop in pairwise(starts)]


def _names(files: int) -> list[str]:
    return ["merged"] if files == 1 else [f"merged-{file:05}-of-{files:05}" for file in range(files)]


def _joined(manifests: Sequence[DatasetManifest], merged: Sequence[MergedFile]) -> DatasetManifest:
    """The manifest of all shards, in the files ``merged``."""
    packages = dict.fromkeys(package for manifest in manifests for package in manifest.versions)
    return DatasetManifest(
        **vars(settings_of(manifests[0])),
        format=DATASET_FORMAT,
        shards=tuple(shard for manifest in manifests for shard in manifest.shards),
        merged=tuple(merged),
        versions={
            package: ", ".join(
                dict.fromkeys(manifest.versions[package] for manifest in manifests if package in manifest.versions)
            )
            for package in packages
        },
    )


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
