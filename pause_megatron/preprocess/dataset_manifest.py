"""Manifests of a dataset folder: ``dataset.json`` and one ``NAME.json`` for each shard.

A folder without ``dataset.json``, which is written last, is not a complete dataset. It ends with a checksum of itself.
Merging joins the files of shards but keeps their entries, so that every shard can still be traced to its input and
verified.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pause_megatron.atomic import write_json
from pause_megatron.errors import UserError
from pause_megatron.pauses.pause_counts import pause_fraction, pauses_per_sequence
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.records.files import path_beside, plain_record, read_json, record_of

DATASET_FILE = "dataset.json"
_CHECKSUM_KEY = "sha256"
"""Key of ``dataset.json`` with the SHA-256 of the others; datasets of older versions lack it."""
LISTED_SKIPS = 1000  # for each shard; further skipped records are only counted


@dataclass(frozen=True, kw_only=True)
class SkippedRecord:
    """Input record that ``--on-error skip`` left out."""

    line: int
    """Line or row of the input, from 1; 0 if the file itself is damaged or ends too early."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardInput:
    """Input of one shard."""

    name: str
    """Name of the shard and, unless merged, of its files."""
    index: int
    """Position of the input among all inputs in sorted order; the pause positions depend on it."""
    input: str
    input_bytes: int
    """Size of the input file; 0 if unknown."""
    documents: int
    """Documents read, not counting empty ones."""
    empty_documents: int
    """Documents without any text, which are left out."""
    skipped_records: int
    """Records left out because they could not be read."""
    skipped: tuple[SkippedRecord, ...]
    """The first :data:`LISTED_SKIPS` of them."""


@dataclass(frozen=True, kw_only=True)
class ShardManifest(ShardInput):
    """One shard: its input, its content, and checksums of its files."""

    sequences: int
    """Stored sequences; documents, for the strategy ``document``."""
    tokens: int
    """Stored tokens, including pauses."""
    pauses: int
    pause_fraction: float
    """``pauses / tokens``."""
    pause_runs: dict[int, int]
    """Number of runs of consecutive pauses by their length."""
    trimmed_tokens: int
    """Real tokens not stored because of ``--trimmed drop``."""
    tail_tokens: int
    """Real tokens not stored because they do not fill a sequence at the end of the shard."""
    bin_bytes: int
    bin_sha256: str
    idx_bytes: int
    """Size of the ``.idx`` file, before merging."""
    idx_sha256: str
    """SHA-256 of the ``.idx`` file, before merging."""

    @property
    def real_tokens(self) -> int:
        """Stored tokens other than pauses, including ends of documents."""
        return self.tokens - self.pauses

    @property
    def dropped_tokens(self) -> int:
        """Real tokens of the text that are not stored."""
        return self.trimmed_tokens + self.tail_tokens


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Content of ``NAME.json``."""

    FORMAT: ClassVar[str] = "pause_megatron/shard/2"
    PRODUCER: ClassVar[str] = "pause-megatron preprocess"

    format: str = FORMAT
    settings: DatasetSettings
    shard: ShardManifest


@dataclass(frozen=True, kw_only=True)
class MergedFile:
    """One pair of files that several shards were merged into."""

    name: str
    """File name without ``.bin`` or ``.idx``."""
    shards: int
    """Number of shards in it, consecutive in :attr:`DatasetManifest.shards`."""
    bin_bytes: int
    idx_bytes: int
    idx_sha256: str
    """SHA-256 of the ``.idx`` file; the ``.bin`` file is verified shard by shard."""


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(DatasetSettings):
    """Content of ``dataset.json``."""

    FORMAT: ClassVar[str] = "pause_megatron/dataset/2"
    PRODUCER: ClassVar[str] = "pause-megatron preprocess"

    format: str = FORMAT
    shards: tuple[ShardManifest, ...]
    """Shards in the order of their indices; in a merged dataset, in the order of the datasets merged."""
    merged: tuple[MergedFile, ...] = ()
    """Files of a merged dataset, in the order of the shards; empty if every shard has its own files."""
    versions: dict[str, str]
    """Versions of the software that wrote the dataset."""

    @property
    def settings(self) -> DatasetSettings:
        """The settings, without the shards."""
        return DatasetSettings(**{field.name: getattr(self, field.name) for field in fields(DatasetSettings)})

    @property
    def sequences(self) -> int:
        """Stored sequences of all shards."""
        return sum(shard.sequences for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Stored tokens of all shards, including pauses."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def pauses(self) -> int:
        """Stored pauses of all shards."""
        return sum(shard.pauses for shard in self.shards)

    @property
    def pause_runs(self) -> Counter[int]:
        """Number of runs of consecutive pauses by their length, in all shards."""
        return sum((Counter(shard.pause_runs) for shard in self.shards), Counter())

    @property
    def expected_pause_fraction(self) -> float:
        """Expected share of pauses among the stored tokens, from the settings (and the lengths of documents)."""
        if self.strategy == "sequence":
            inserted = pauses_per_sequence(self.pause_rate, self.seq_length)
            return pause_fraction(inserted, self.seq_length, self.kind_of_rates)
        if self.strategy == "document":
            text = self.tokens - self.pauses - self.sequences  # without the ends of documents
            return self.pause_rate * text / max(1.0, self.pause_rate * text + text + self.sequences)
        return self.pauses_per_token / (self.interval + self.pauses_per_token)  # 0 for the strategy none


@dataclass(frozen=True)
class StoredFile:
    """One ``.bin`` and ``.idx`` pair of a dataset folder, with one shard or several merged ones."""

    name: str
    shards: tuple[ShardManifest, ...]
    """Shards in the order of their content in the files."""
    bin_bytes: int
    idx_bytes: int
    idx_sha256: str

    @classmethod
    def of(cls, entry: ShardManifest | MergedFile, shards: tuple[ShardManifest, ...]) -> StoredFile:
        """Return the pair of files that ``entry`` describes."""
        return cls(entry.name, shards, entry.bin_bytes, entry.idx_bytes, entry.idx_sha256)

    @property
    def sequences(self) -> int:
        """Stored sequences of the file."""
        return sum(shard.sequences for shard in self.shards)


def stored_files(manifest: DatasetManifest) -> tuple[StoredFile, ...]:
    """Return the files of a dataset, in order."""
    if not manifest.merged:
        return tuple(StoredFile.of(shard, (shard,)) for shard in manifest.shards)
    shards = iter(manifest.shards)
    return tuple(StoredFile.of(file, tuple(islice(shards, file.shards))) for file in manifest.merged)


def write_dataset_manifest(folder: Path, manifest: DatasetManifest) -> None:
    """Write ``dataset.json`` of ``folder``, complete or not at all."""
    content = plain_record(manifest)
    write_json(folder / DATASET_FILE, {**content, _CHECKSUM_KEY: manifest_checksum(content)})


def manifest_checksum(content: dict[str, Any]) -> str:
    """Return the SHA-256 of ``content``, that of ``dataset.json`` without its checksum; order and spaces are free."""
    as_read = json.loads(json.dumps(content))  # whose keys are all text
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def load_dataset_manifest(folder: Path) -> DatasetManifest:
    """Read ``dataset.json`` of ``folder``; raises :class:`UserError` if a file is missing, has another size or is
    listed twice, or if merged files hold another number of shards than it lists."""
    manifest, path = read_dataset_manifest(folder), folder / DATASET_FILE
    names = [entry.name for entry in manifest.merged or manifest.shards]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: lists a file twice; write it again with 'pause-megatron preprocess'")
    held = sum(file.shards for file in manifest.merged)
    if manifest.merged and (held != len(manifest.shards) or min(file.shards for file in manifest.merged) < 1):
        raise UserError(f"{path}: its merged files hold {held} of {len(manifest.shards)} shards; merge again")
    for file in stored_files(manifest):
        check_stored_file(folder, file)
    return manifest


def read_dataset_manifest(folder: Path) -> DatasetManifest:
    """Read ``dataset.json`` of ``folder`` and check no other file.

    Raises :class:`UserError` if it is missing, is not the manifest of a dataset, has changed since it was written, or
    lists a file that is not in ``folder``.
    """
    path = folder / DATASET_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: not a complete dataset (no {DATASET_FILE}); finish it with 'pause-megatron preprocess'"
        )
    content = read_json(path)
    written = content.pop(_CHECKSUM_KEY, None) if isinstance(content, dict) else None
    manifest = record_of(content, path, DatasetManifest)
    if written not in (None, manifest_checksum(content)):
        raise UserError(f"{path}: has changed since it was written (see its {_CHECKSUM_KEY}); copy the dataset again")
    for shard in manifest.shards:
        path_beside(path, shard.name)
    for file in manifest.merged:
        path_beside(path, file.name)
    return manifest


def check_stored_file(folder: Path, file: StoredFile) -> None:
    """Raise :class:`UserError` unless both files of ``file`` are in ``folder`` with the sizes of its manifest."""
    for suffix, size in ((".bin", file.bin_bytes), (".idx", file.idx_bytes)):
        path = folder / (file.name + suffix)
        if not path.is_file():
            raise UserError(f"{path}: missing, but the manifest lists it; remove {file.name}.json and preprocess again")
        if (found := path.stat().st_size) != size:
            raise UserError(
                f"{path}: has {found} bytes instead of the {size} in its manifest; remove the shard's files and "
                "preprocess again"
            )
