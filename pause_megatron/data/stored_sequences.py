"""Stored sequences of a dataset folder as one list, independent of its files.

This is the "low-level dataset" of Megatron-core's terms, below both kinds of dataset. A folder may have a thousand
files, one per input, or a few merged ones; the list is the same, so samples and their order are too.
"""

import resource
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DATASET_FILE, DatasetManifest, stored_files
from pause_megatron.preprocess.indexed_files import IndexFile, token_dtype


class StoredSequences:
    """All stored sequences of ``folder``, in order. Opens a file when it is first read, and keeps it open."""

    def __init__(self, folder: Path, manifest: DatasetManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        files = [file for file in stored_files(manifest) if file.sequences]
        self._names = [file.name for file in files]
        self._starts = [0, *accumulate(file.sequences for file in files)]
        self._open: list[IndexedDataset | None] = [None] * len(files)
        _raise_open_file_limit()

    def __len__(self) -> int:
        return self._starts[-1]

    def get(self, index: int, offset: int = 0, length: int | None = None) -> NDArray[np.integer]:
        """Return ``length`` tokens (default: all) of sequence ``index`` from ``offset`` on, as a memory-mapped view."""
        file = bisect_right(self._starts, index) - 1
        dataset = self._open[file]
        if dataset is None:
            dataset = self._open[file] = self._open_file(file)
        tokens: NDArray[np.integer] = dataset.get(int(index) - self._starts[file], offset, length)
        return tokens

    def lengths(self) -> NDArray[np.int32]:
        """Return the length of every sequence in tokens, ``[sequences]``, from the index files."""
        files = [IndexFile.open(self.folder / f"{name}.idx") for name in self._names]
        return np.concatenate([file.lengths(0, file.sequences) for file in files])

    def _open_file(self, file: int) -> IndexedDataset:
        path = self.folder / self._names[file]
        try:
            self._check_header(file, IndexFile.open(Path(f"{path}.idx")))  # Megatron-core's reader trusts the header
            return IndexedDataset(str(path))
        except (OSError, UserError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise UserError(
                f"{path}.bin: {cause.strerror or cause}; if its {len(self._names)} pairs of files are too many, merge "
                "them with 'pause-megatron merge-datasets' or raise `ulimit -n`"
            ) from error

    def _check_header(self, file: int, index: IndexFile) -> None:
        sequences, dtype = self._starts[file + 1] - self._starts[file], token_dtype(self.manifest.vocab_size)
        if (index.sequences, index.dtype) != (sequences, dtype):
            raise UserError(
                f"{index.path}: has {index.sequences} sequences of {index.dtype}, but {DATASET_FILE} lists {sequences}"
                f" of {dtype}; run `pause-megatron verify-dataset --data {self.folder}`"
            )


def _raise_open_file_limit() -> None:
    """Raise the soft limit on open files to the hard limit: each mapped shard needs three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
