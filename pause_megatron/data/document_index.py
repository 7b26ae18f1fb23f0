"""Index of packed documents: built once per disk, kept in a cache, and read by every process.

The index holds the order of the documents and the start of each sample. Its name in the cache is a hash of everything
it depends on, so changed data gets another index. The cache may be on a disk that all nodes share or on a disk of each
node: rank 0 builds the index if it is missing or damaged, then local rank 0 of every node if it still is so there.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from megatron.core.datasets import helpers
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_json
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.stored_sequences import StoredSequences
from pause_megatron.errors import UserError
from pause_megatron.parallel.collectives import raise_on_all_ranks
from pause_megatron.parallel.launcher import Launch
from pause_megatron.preprocess.token_blocks import sha256_of
from pause_megatron.records.files import read_json

_DOCUMENTS, _SAMPLES, _HASHES = "documents.npy", "samples.npy", "sha256.json"
_FORMAT = 2
_VISIBLE_WITHIN_SECONDS = 90.0
"""Network file systems may cache for a minute that a folder does not exist."""


@dataclass(frozen=True)
class DocumentIndex:
    """The document index and sample index of Megatron-core's ``GPTDataset``."""

    documents: NDArray[np.int32]
    """Documents in packing order, ``[documents]``."""
    samples: NDArray[np.integer]
    """Start of each sample, and the end of the last: position in ``documents`` and token offset in that document,
    ``[samples + 1, 2]``."""

    @classmethod
    def build(cls, lengths: NDArray[np.int32], seq_length: int, seed: int | None) -> DocumentIndex:
        """Pack documents of the given lengths (tokens, ``[documents]``), shuffled by ``seed``; None keeps their order.

        The result equals that of ``GPTDataset`` for one epoch with this seed.
        """
        documents = np.arange(len(lengths), dtype=np.int32)
        if seed is not None:
            np.random.RandomState(seed).shuffle(documents)
        tokens = int(lengths.sum(dtype=np.int64))
        return cls(documents, helpers.build_sample_idx(lengths, documents, seq_length, 1, tokens))

    @classmethod
    def load(cls, path: Path) -> DocumentIndex:
        """Memory-map the index in the folder ``path``."""
        return cls(np.load(path / _DOCUMENTS, mmap_mode="r"), np.load(path / _SAMPLES, mmap_mode="r"))

    def save(self, path: Path) -> None:
        """Write the index to the folder ``path``, complete or not at all."""
        with new_folder(path, alone=False) as folder:
            np.save(folder / _DOCUMENTS, self.documents)
            np.save(folder / _SAMPLES, self.samples)
            write_json(folder / _HASHES, _hashes(folder))


def _hashes(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the index in the folder ``path``."""
    files = [path / name for name in (_DOCUMENTS, _SAMPLES)]
    return {file.name: sha256_of(file, 0, file.stat().st_size) for file in files}


def _is_sound(path: Path) -> bool:
    """Return whether the index in the folder ``path`` is as it was written."""
    try:
        return bool(read_json(path / _HASHES) == _hashes(path))
    except (OSError, UserError):
        return False


@dataclass(frozen=True)
class CachedIndex:
    """Index of one folder's documents in a cache."""

    cache: Path
    source: DataFolder
    seed: int | None
    """Seed of the document order; None for the stored order."""

    @property
    def path(self) -> Path:
        """Folder of the index."""
        content = f"{_FORMAT} {self.source.fingerprint} {self.source.seq_length} {self.seed}"
        return self.cache / f"{self.source.path.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def build_if_missing(self) -> None:
        """Build the index unless it exists and is as it was written."""
        path = self.path
        if path.is_dir():
            if _is_sound(path):
                return
            log.warn(f"{path}: damaged; building this index again")
            shutil.rmtree(path, ignore_errors=True)
        started = time.monotonic()
        lengths = StoredSequences(self.source.path, self.source.manifest).lengths()
        index = DocumentIndex.build(lengths, self.source.seq_length, self.seed)
        try:
            index.save(path)
        except (OSError, UserError) as error:
            if not path.is_dir():  # otherwise another process, perhaps of another run, was faster
                raise UserError(f"--data-cache {self.cache}: {error}; choose a writable folder") from error
        log.info(f"indexed {len(lengths):,} documents of {self.source.name} in {time.monotonic() - started:.1f} s")


def ensure_indices(wanted: Sequence[CachedIndex], launch: Launch) -> None:
    """Build every missing index. A collective: every rank must call this.

    Raises :class:`UserError` on every rank if one of them cannot build or find an index.
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
    """Return why this rank cannot read the index, or None."""
    give_up = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while not index.path.is_dir():
        if time.monotonic() > give_up:
            return (
                f"--data-cache {index.cache}: rank {launch.rank} cannot see the index that local rank 0 of its node "
                "wrote; choose a folder that all processes of a node share"
            )
        time.sleep(0.5)
    return None
