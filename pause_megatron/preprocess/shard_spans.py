"""The shards of a dataset folder as stretches of its files, the same for merged and unmerged datasets.

A shard's tokens are consecutive in one ``.bin`` file, and so are its entries in the ``.idx`` file beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.dataset_manifest import (
    DatasetManifest,
    DatasetSettings,
    ShardManifest,
    StoredFile,
    stored_files,
)
from pause_megatron.preprocess.indexed_files import SEQUENCES_AT_ONCE, IndexFile, chunk_ranges


@dataclass(frozen=True)
class ShardSpan:
    """Where one shard lies."""

    folder: Path
    file: StoredFile
    shard: ShardManifest
    first_byte: int
    """Where its content begins in the ``.bin`` file."""
    first_sequence: int
    """Index of its first sequence in the file."""

    @property
    def bin_path(self) -> Path:
        """The file that holds its tokens."""
        return self.folder / f"{self.file.name}.bin"

    @property
    def idx_path(self) -> Path:
        """The index of that file."""
        return self.folder / f"{self.file.name}.idx"

    @property
    def after_last_byte(self) -> int:
        """Where its content ends in the ``.bin`` file."""
        return self.first_byte + self.shard.bin_bytes

    @property
    def after_last_sequence(self) -> int:
        """Index behind its last sequence in the file."""
        return self.first_sequence + self.shard.sequences

    @property
    def label(self) -> str:
        """The ``.bin`` file, and the shard where the file holds several: how messages begin."""
        return str(self.bin_path) + (f", shard {self.shard.name}" if len(self.file.shards) > 1 else "")


def spans_of_file(folder: Path, file: StoredFile) -> Iterator[ShardSpan]:
    """The shards in one pair of files, in order."""
    first_byte = first_sequence = 0
    for shard in file.shards:
        yield ShardSpan(folder, file, shard, first_byte, first_sequence)
        first_byte += shard.bin_bytes
        first_sequence += shard.sequences


def spans_of(folder: Path, manifest: DatasetManifest) -> tuple[ShardSpan, ...]:
    """All shards of the dataset in ``folder``, in order."""
    return tuple(span for file in stored_files(manifest) for span in spans_of_file(folder, file))


def stored_lengths(span: ShardSpan, index: IndexFile) -> Iterator[NDArray[np.int32]]:
    """Lengths in tokens of a shard's sequences as its index gives them, in pieces."""
    for start, stop in chunk_ranges(span.first_sequence, span.after_last_sequence, SEQUENCES_AT_ONCE):
        yield index.lengths(start, stop)


def settings_of(manifest: DatasetManifest) -> DatasetSettings:
    """The settings of a dataset alone, without its shards."""
    return DatasetSettings(**{field.name: getattr(manifest, field.name) for field in fields(DatasetSettings)})
