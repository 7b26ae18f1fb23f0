"""``pause-megatron merge-datasets``: joins the shards of one or several datasets into one or a few pairs of files.

The result has the same bytes as Megatron's ``IndexedDatasetBuilder.add_index`` would write. Memory does not grow with
the data. Every shard's entry stays in the manifest, so only the new indices are hashed.
"""

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.atomic import new_folder
from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import (
    DatasetManifest,
    MergedFile,
    load_dataset_manifest,
    write_dataset_manifest,
)
from pause_megatron.preprocess.dataset_settings import differing_setting
from pause_megatron.preprocess.indexed_files import IndexFile, stream_index, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan, spans_of, stored_lengths

_COPIED_BY_KERNEL_AT_ONCE = 1 << 30
_COPIED_AT_ONCE = 8 << 20
_KERNEL_CANNOT = (errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
_SECONDS_BETWEEN_MESSAGES = 10


def merge_datasets(config: MergeDatasetsConfig) -> None:
    """Write the dataset folder ``config.output``.

    Raises :class:`UserError` for an incomplete dataset, datasets that cannot be joined, more files than shards, an
    output that exists, and a full disk. Then no folder has the output's name.
    """
    manifests = [load_dataset_manifest(folder) for folder in config.input]
    spans = list(chain.from_iterable(map(spans_of, config.input, manifests)))
    _check_mergeable(config.input, manifests, spans)
    groups = cut_into_files(spans, config.files)
    with new_folder(config.output) as folder:
        # All indices come first: they are small, and show a shard that does not fit its manifest before the long copy.
        dtype = token_dtype(manifests[0].vocab_size)
        parts = [f"merged-{file:05}-of-{config.files:05}" for file in range(config.files)]
        names = parts if config.files > 1 else ["merged"]
        merged = [write_merged_index(folder, *pair, dtype) for pair in zip(names, groups, strict=True)]
        for name, group in zip(names, groups, strict=True):
            write_merged_tokens(folder / f"{name}.bin", group)
        manifest = _joined(manifests, merged)
        write_dataset_manifest(folder, manifest)
    log.info(
        f"{config.output}: {len(spans)} shards in {', '.join(f'{name}.bin' for name in names)}; "
        f"{manifest.sequences} sequences, {manifest.tokens} tokens"
    )


def _check_mergeable(folders: Sequence[Path], manifests: Sequence[DatasetManifest], spans: Sequence[ShardSpan]) -> None:
    first, settings = folders[0], manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        if name := differing_setting(settings, manifest):
            raise UserError(
                f"--input: {first} was written with {name}={getattr(settings, name)} and {folder} with "
                f"{name}={getattr(manifest, name)}; merge only datasets written with the same settings"
            )
    seen: dict[tuple[str, str, str], Path] = {}
    for span in spans:
        key = (span.shard.name, span.shard.input, span.shard.bin_sha256)
        if span.shard.sequences and key in seen:
            raise UserError(
                f"--input: shard {span.shard.name}, made from {span.shard.input}, is in both {seen[key]} and "
                f"{span.folder}; remove one of the two folders, or its text would be in the result twice"
            )
        seen[key] = span.folder


def cut_into_files(spans: Sequence[ShardSpan], files: int) -> list[Sequence[ShardSpan]]:
    """Cut ``spans`` into ``files`` groups of about equal bytes; raises :class:`UserError` if fewer shards have data."""
    filled = [place for place, span in enumerate(spans) if span.shard.sequences]
    if len(filled) < files:
        raise UserError(f"--files {files}: only {len(filled)} shards have data; give at most that number")
    before = np.cumsum([0, *(spans[place].shard.bin_bytes for place in filled)])
    cuts = [0]
    for file in range(1, files):
        nearest = int(np.argmin(np.abs(before - before[-1] * file / files)))
        cuts.append(min(max(nearest, cuts[-1] + 1), len(filled) - files + file))  # leave a shard for each file
    starts = [0, *(filled[cut] for cut in cuts[1:]), len(spans)]
    return [spans[start:stop] for start, stop in pairwise(starts)]


def _joined(manifests: Sequence[DatasetManifest], merged: Sequence[MergedFile]) -> DatasetManifest:
    versions: dict[str, dict[str, None]] = {}  # a dict as an ordered set: each version once
    for manifest in manifests:
        for package, version in manifest.versions.items():
            versions.setdefault(package, {})[version] = None
    return DatasetManifest(
        **vars(manifests[0].settings),
        shards=tuple(shard for manifest in manifests for shard in manifest.shards),
        merged=tuple(merged),
        versions={package: ", ".join(found) for package, found in versions.items()},
    )


def write_merged_index(folder: Path, name: str, spans: Sequence[ShardSpan], dtype: np.dtype[np.generic]) -> MergedFile:
    """Write ``folder/name.idx`` for ``spans``; raises :class:`UserError` if an index does not fit its manifest."""
    sequences = sum(span.shard.sequences for span in spans)
    digest, size = hashlib.sha256(), 0
    with open(folder / f"{name}.idx", "wb") as file:
        for content in stream_index(lambda: _lengths(spans, dtype), sequences, dtype):
            file.write(content)
            digest.update(content)
            size += len(content)
    bin_bytes = sum(span.shard.bin_bytes for span in spans)
    return MergedFile(name=name, shards=len(spans), bin_bytes=bin_bytes, idx_bytes=size, idx_sha256=digest.hexdigest())


def _lengths(spans: Sequence[ShardSpan], dtype: np.dtype[np.generic]) -> Iterator[NDArray[np.int32]]:
    for span in spans:
        advice = f"run `pause-megatron verify-dataset --data {span.folder}`"
        index = IndexFile.open(span.idx_path)
        if (index.dtype, index.sequences) != (dtype, span.file.sequences):
            raise UserError(
                f"{span.idx_path}: has {index.sequences} sequences of {index.dtype}, but its manifest lists "
                f"{span.file.sequences} of {dtype}; {advice}"
            )
        tokens = 0
        for lengths in stored_lengths(span, index):
            tokens += int(lengths.sum(dtype=np.int64))
            yield lengths
        if tokens * dtype.itemsize != span.shard.bin_bytes:
            raise UserError(
                f"{span.idx_path}: the sequences of shard {span.shard.name} have {tokens} tokens together, but its "
                f"{span.shard.bin_bytes} bytes hold {span.shard.bin_bytes // dtype.itemsize}; {advice}"
            )


def write_merged_tokens(path: Path, spans: Sequence[ShardSpan]) -> None:
    """Write the ``.bin`` file ``path`` with the token ids of ``spans`` one after another."""
    logged = time.monotonic()
    with open(path, "wb") as target:
        for done, span in enumerate(spans, start=1):
            with open(span.bin_path, "rb") as source:
                append_range(source.fileno(), span.first_byte, span.shard.bin_bytes, target.fileno(), span.label())
            if time.monotonic() - logged > _SECONDS_BETWEEN_MESSAGES:
                logged = time.monotonic()
                log.info(f"{path.name}: {done} of {len(spans)} shards, {os.fstat(target.fileno()).st_size} bytes")


def append_range(source: int, start: int, size: int, target: int, name: str) -> None:
    """Append ``size`` bytes of the open file ``source``, from byte ``start``, to the open file ``target``.

    The kernel copies or shares them if it can. Raises :class:`UserError` that names ``name`` if the source ends early.
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
            raise UserError(f"{name}: ended {size} bytes too early during the copy; merge when nothing writes to it")
        start += copied
        size -= copied
