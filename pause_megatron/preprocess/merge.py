"""``pause-megatron merge-datasets``: the shards of one or several datasets joined into one or a few pairs of files.

The files are written by :mod:`~pause_megatron.preprocess.merged_files`. Every shard's entry stays in the manifest, so
nothing is hashed again but the new indices. The folder appears under its name when it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from pause_megatron import log
from pause_megatron.atomic import new_folder, sweep
from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.indexed_writer import token_dtype
from pause_megatron.preprocess.manifest import (
    DATASET_FILE,
    DATASET_FORMAT,
    DatasetManifest,
    MergedFile,
    differing_setting,
    load_dataset_manifest,
    write_manifest,
)
from pause_megatron.preprocess.merged_files import write_merged_index, write_merged_tokens
from pause_megatron.preprocess.shard_spans import ShardSpan, settings_of, spans_of


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
