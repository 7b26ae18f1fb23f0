"""The stored sequences of a dataset folder as one list, whichever files they lie in.

Below both kinds of dataset: what Megatron-core calls the low-level dataset. A folder may hold a thousand files, one for
each input, or a few merged ones; the list is the same, so samples and their order do not depend on it.
"""

from __future__ import annotations

import resource
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, stored_files
from pause_megatron.preprocess.indexed_files import IndexFile


class StoredSequences:
    """All stored sequences of ``folder``, in order. A file is opened (and kept open) when something in it is read."""

    def __init__(self, folder: Path, manifest: DatasetManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        files = [file for file in stored_files(manifest) if file.sequences]
        self._names = [file.name for file in files]
        self._starts = [0, *accumulate(file.sequences for file in files)]
        self._open: list[IndexedDataset | None] = [None] * len(files)
        _allow_as_many_files_as_possible()

    def __len__(self) -> int:
        """Number of sequences."""
        return self._starts[-1]

    def get(self, index: int, offset: int = 0, length: int | None = None) -> NDArray[np.integer]:
        """Tokens of sequence ``index`` from ``offset`` on, ``length`` of them or all; a view of the mapped file."""
        file = bisect_right(self._starts, index) - 1
        dataset = self._open[file]
        if dataset is None:
            dataset = self._open[file] = self._open_file(file)
        tokens: NDArray[np.integer] = dataset.get(int(index) - self._starts[file], offset, length)
        return tokens

    def lengths(self) -> NDArray[np.int32]:
        """Length of every sequence in tokens, ``[sequences]``, read from the index files."""
        files = [IndexFile.open(self.folder / f"{name}.idx") for name in self._names]
        return np.concatenate([file.lengths(0, file.sequences) for file in files])

    def _open_file(self, file: int) -> IndexedDataset:
        path = self.folder / self._names[file]
        try:
            return IndexedDataset(str(path))
        except OSError as error:
            raise UserError(
                f"{path}.bin: {error.strerror or error}; the folder has {len(self._names)} pairs of files, which "
                "merging them, or a higher `ulimit -n`, helps to open"
            ) from error


def _allow_as_many_files_as_possible() -> None:
    """Lift the process's limit on open files to the one it may choose: a mapped shard takes three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
