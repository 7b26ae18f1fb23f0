"""Fixed-length sequences (strategies ``sequence``, ``every`` and ``none``) as samples, and opening of all datasets."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.document_index import CachedIndex, ensure_indices
from pause_megatron.data.packed_documents import open_documents
from pause_megatron.data.stored_sequences import StoredSequences
from pause_megatron.data.training_sample import Sample, SampleDataset
from pause_megatron.parallel.launcher import Launch


class SequenceDataset:
    """Sample ``i`` is stored sequence ``i``.

    The token after it is the first token of the next stored sequence if the text continues there. At the end of a
    shard, or if the tail was dropped, it is ``<pause>``, which carries no loss as a label.
    """

    def __init__(self, source: DataFolder) -> None:
        self.source = source
        self._stored = StoredSequences(source.path, source.manifest)
        self._pause_id = source.manifest.pause_id
        self._is_carried = source.manifest.trimmed == "carry"
        self._shard_ends = frozenset(accumulate(shard.sequences for shard in source.manifest.shards))

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int) -> Sample:
        tokens = self._stored.get(index)
        continues = self._is_carried and index + 1 not in self._shard_ends
        after = self._stored.get(index + 1, 0, 1)[0] if continues else self._pause_id
        return np.append(tokens, np.asarray(after, tokens.dtype))


def open_datasets(
    folders: Sequence[DataFolder], *, seed: int | None, cache: Path, launch: Launch
) -> list[SampleDataset]:
    """Open the dataset of each folder. A collective: every rank must call this.

    ``seed`` decides the order in which documents are packed; None packs them in stored order. Raises
    :class:`UserError` on every rank if an index is not in ``cache`` and cannot be built.
    """
    indices = [
        CachedIndex(cache, folder, seed) if folder.manifest.strategy == "document" else None for folder in folders
    ]
    ensure_indices([index for index in indices if index], launch)
    return [
        open_documents(folder, index.path) if index else SequenceDataset(folder)
        for folder, index in zip(folders, indices, strict=True)
    ]
