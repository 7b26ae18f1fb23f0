"""Shards of a dataset folder as spans of its files, the same for merged and unmerged datasets.

The tokens of a shard are consecutive in one ``.bin`` file, and its entries are consecutive in the ``.idx`` file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.dataset_manifest import DatasetManifest, ShardManifest, StoredFile, stored_files
from pause_megatron.preprocess.indexed_files import SEQUENCES_AT_ONCE, IndexFile, chunk_ranges


@dataclass(frozen=True)
class ShardSpan:
    """Location of one shard."""

    folder: Path
    file: StoredFile
    shard: ShardManifest
    first_byte: int
    """First byte of the shard in the ``.bin`` file."""
    first_sequence: int
    """Index in the file of the shard's first sequence."""

    @property
    def bin_path(self) -> Path:
        """File with the tokens."""
        return self.folder / f"{self.file.name}.bin"

    @property
    def idx_path(self) -> Path:
        """Index of that file."""
        return self.folder / f"{self.file.name}.idx"

    @property
    def after_last_sequence(self) -> int:
        """Index in the file behind the shard's last sequence."""
        return self.first_sequence + self.shard.sequences

    def label(self, suffix: str = ".bin") -> str:
        """Return the file's name for messages, with the shard's name if the file holds several shards."""
        name = str(self.folder / (self.file.name + suffix))
        return name + (f", shard {self.shard.name}" if len(self.file.shards) > 1 else "")


def spans_of(folder: Path, manifest: DatasetManifest) -> tuple[ShardSpan, ...]:
    """Return all shards of the dataset in ``folder``, in order."""
    spans = []
    for file in stored_files(manifest):
        first_byte = first_sequence = 0
        for shard in file.shards:
            spans.append(ShardSpan(folder, file, shard, first_byte, first_sequence))
            first_byte += shard.bin_bytes
            first_sequence += shard.sequences
    return tuple(spans)


def stored_lengths(span: ShardSpan, index: IndexFile) -> Iterator[NDArray[np.int32]]:
    """Yield the lengths in tokens of a shard's sequences from its index, in several arrays."""
    for start, stop in chunk_ranges(span.first_sequence, span.after_last_sequence, SEQUENCES_AT_ONCE):
        yield index.lengths(start, stop)
