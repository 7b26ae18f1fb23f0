"""The index of packed documents: built once for each disk, kept in a cache, and read by every process.

It says in which order the documents stand and where each sample begins. Its place in the cache is named after all that
decides it, so data that changed has another index. The cache may lie on a disk that all processes share or on a disk of
each node; nobody has to say which: rank 0 builds what it misses, then the first process of every node builds what is
missing there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from megatron.core.datasets import helpers
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.atomic import new_folder, sweep
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.stored_sequences import StoredSequences
from pause_megatron.errors import UserError
from pause_megatron.parallel.collectives import raise_on_all_ranks
from pause_megatron.parallel.launcher import Launch

_DOCUMENTS, _SAMPLES = "documents.npy", "samples.npy"
_FORMAT = 1
_VISIBLE_WITHIN_SECONDS = 90.0
"""Network file systems may hide a new folder for a minute from a process that looked for it before."""


@dataclass(frozen=True)
class DocumentIndex:
    """What ``GPTDataset`` calls the document index and the sample index."""

    documents: NDArray[np.int32]
    """The documents in the order they are packed in, ``[documents]``."""
    samples: NDArray[np.integer]
    """For each sample, and for the end: position in ``documents`` and first token there, ``[samples + 1, 2]``."""

    @classmethod
    def build(cls, lengths: NDArray[np.int32], seq_length: int, seed: int | None) -> DocumentIndex:
        """Pack documents of these lengths (tokens), shuffled by ``seed`` or as they are stored.

        The same as plain ``GPTDataset`` builds for one epoch with this seed.
        """
        documents = np.arange(len(lengths), dtype=np.int32)
        if seed is not None:
            np.random.RandomState(seed).shuffle(documents)
        tokens = int(lengths.sum(dtype=np.int64))
        return cls(documents, helpers.build_sample_idx(lengths, documents, seq_length, 1, tokens))

    @classmethod
    def load(cls, path: Path) -> DocumentIndex:
        """Map the index in the folder ``path``."""
        return cls(np.load(path / _DOCUMENTS, mmap_mode="r"), np.load(path / _SAMPLES, mmap_mode="r"))

    def save(self, path: Path) -> None:
        """Write the index to the folder ``path``, whole or not at all."""
        sweep(path.parent, path.name)
        with new_folder(path) as folder:
            np.save(folder / _DOCUMENTS, self.documents)
            np.save(folder / _SAMPLES, self.samples)


@dataclass(frozen=True)
class CachedIndex:
    """The index of one folder's documents in a cache."""

    cache: Path
    source: DataFolder
    seed: int | None
    """Seed of the order of the documents; None for the order they are stored in."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        content = f"{_FORMAT} {self.source.fingerprint} {self.source.seq_length} {self.seed}"
        return self.cache / f"{self.source.path.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def build_if_missing(self) -> None:
        """Build it unless it is there."""
        path = self.path
        if path.is_dir():
            return
        started = time.monotonic()
        lengths = StoredSequences(self.source.path, self.source.manifest).lengths()
        index = DocumentIndex.build(lengths, self.source.seq_length, self.seed)
        try:
            index.save(path)
        except (OSError, UserError) as error:
            if not path.is_dir():  # else another process, of this run or another one, was faster
                raise UserError(f"--data-cache {self.cache}: {error}") from error
        log.info(f"indexed {len(lengths):,} documents of {self.source.name} in {time.monotonic() - started:.1f} s")


def ensure_indices(wanted: Sequence[CachedIndex], launch: Launch) -> None:
    """Have every index built wherever it is missing. To be called in every process of the group.

    Raises :class:`UserError`, in every process, when one of them cannot build or does not find an index.
    """
    for builds in (launch.rank == 0, launch.local_rank == 0):
        failure = None
        try:
            for index in wanted if builds else ():
                index.build_if_missing()
        except UserError as error:
            failure = str(error)
        raise_on_all_ranks(failure)
    raise_on_all_ranks(next((failure for index in wanted if (failure := _missing(index, launch))), None))


def _missing(index: CachedIndex, launch: Launch) -> str | None:
    """Why the index cannot be used here, or None."""
    give_up = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while not index.path.is_dir():
        if time.monotonic() > give_up:
            return (
                f"--data-cache {index.cache}: rank {launch.rank} does not find what the first process of its node "
                "wrote; give a folder that all processes of a node see"
            )
        time.sleep(0.5)
    return None
