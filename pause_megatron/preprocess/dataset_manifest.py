"""What a dataset folder holds, and the check that it is whole.

For each input file there are ``NAME.bin`` and ``NAME.idx`` (Megatron indexed dataset, see
:mod:`~pause_megatron.preprocess.indexed_files`) and, written after them, ``NAME.json``: format, settings, and the
shard's entry. ``dataset.json``, written when all shards are done, holds the settings and all entries; a folder without
it is no dataset. In a merged dataset the shards' files have been joined into a few, and their entries are kept, so that
every part can still be traced to its input and checked. The fields are those of the classes below.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pause_megatron.atomic import write_json
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError
from pause_megatron.pauses.insertion import pauses_per_sequence

DATASET_FILE = "dataset.json"
DATASET_FORMAT = "pause_megatron/dataset/2"
SHARD_FORMAT = "pause_megatron/shard/2"
LISTED_SKIPS = 1000
"""Skipped records listed for a shard; beyond them they are only counted."""


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """What decides a dataset's bytes, besides the text and its order. What a strategy does not use is 0 or neutral."""

    strategy: Literal["sequence", "document", "every", "none"]
    """Where pauses were inserted; ``--pauses``."""
    pause_rate: float
    """Pauses inserted per real token (before trimming, for ``sequence``)."""
    pauses_per_token: int
    """Pauses after every token, for ``every``."""
    gaps: Literal["repeat", "distinct"]
    """Whether several pauses may follow one real token; ``--gaps``."""
    trimmed: Literal["carry", "drop"]
    """``carry`` when each sequence continues the text of the one before it in its shard, else ``drop``."""
    seq_length: int
    """Tokens in every stored sequence; 0 for ``document``, where a stored sequence is a document."""
    seed: int
    """Seed of the pause positions."""
    text_key: str
    """Field of a record that holds the document."""
    tokenizer_sha256: str
    """SHA-256 of the tokenizer's file."""
    encoder: str
    """Library that encoded the text: ``sentencepiece``, ``tokenizers`` or ``gigatoken``."""
    vocab_size: int
    """Tokens of the tokenizer, special ones included; ids are below it."""
    pause_id: int
    """Id of ``<pause>``."""
    eod_id: int
    """Id of the end-of-document token, which stands behind every document."""


@dataclass(frozen=True, kw_only=True)
class SkippedRecord:
    """Input that was left out under ``--on-error skip``."""

    line: int
    """Line or row of the input, from 1; 0 when it is the file itself that ends too early or is damaged."""
    reason: str
    """What was wrong with it."""


@dataclass(frozen=True, kw_only=True)
class ShardInput:
    """What a shard was made from."""

    name: str
    """Name of the shard; its files, unless merged, are named after it."""
    index: int
    """Position of the input among all inputs in sorted order; the pause positions depend on it."""
    input: str
    """The file it was made from."""
    input_bytes: int
    """Size of that file; 0 when unknown."""
    documents: int
    """Documents read, without empty ones."""
    empty_documents: int
    """Documents without any text; left out."""
    skipped_records: int
    """Records that could not be read and were left out."""
    skipped: tuple[SkippedRecord, ...]
    """The first of them; at most :data:`LISTED_SKIPS`."""


@dataclass(frozen=True, kw_only=True)
class ShardManifest(ShardInput):
    """One shard: what it was made from, what it holds, and how its files can be checked."""

    sequences: int
    """Stored sequences; for the strategy ``document`` these are the documents."""
    tokens: int
    """Stored tokens, pauses included."""
    pauses: int
    """Stored pauses."""
    pause_fraction: float
    """The realised rate: ``pauses / tokens``."""
    pause_runs: dict[int, int]
    """Number of pauses that stand together, and how many such runs there are."""
    trimmed_tokens: int
    """Real tokens not stored because ``trimmed="drop"`` drops them."""
    tail_tokens: int
    """Real tokens not stored because the end of the shard fills no sequence."""
    bin_bytes: int
    """Size of the ``.bin`` content."""
    bin_sha256: str
    """SHA-256 of the ``.bin`` content."""
    idx_bytes: int
    """Size of the ``.idx`` file, before merging."""
    idx_sha256: str
    """SHA-256 of the ``.idx`` file, before merging."""

    @property
    def real_tokens(self) -> int:
        """Stored tokens that are no pauses; ends of documents count as real."""
        return self.tokens - self.pauses

    @property
    def dropped_tokens(self) -> int:
        """Real tokens of the text that are not stored."""
        return self.trimmed_tokens + self.tail_tokens


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Content of ``NAME.json``."""

    format: str
    settings: DatasetSettings
    shard: ShardManifest


@dataclass(frozen=True, kw_only=True)
class MergedFile:
    """One pair of files that several shards have been joined into."""

    name: str
    """File name without ``.bin`` or ``.idx``."""
    shards: int
    """How many shards, consecutive in :attr:`DatasetManifest.shards`, it holds."""
    bin_bytes: int
    """Size of the ``.bin`` file."""
    idx_bytes: int
    """Size of the ``.idx`` file."""
    idx_sha256: str
    """SHA-256 of the ``.idx`` file; the ``.bin`` file is checked shard by shard."""


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(DatasetSettings):
    """Content of ``dataset.json``."""

    format: str
    shards: tuple[ShardManifest, ...]
    """In the order of their indices; for a merged dataset, of the datasets joined."""
    merged: tuple[MergedFile, ...] = ()
    """The files of a merged dataset, in the order of the shards; empty when every shard has its own."""
    versions: dict[str, str]
    """Versions of the software that wrote the dataset."""

    @property
    def sequences(self) -> int:
        """Stored sequences of all shards."""
        return sum(shard.sequences for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Stored tokens of all shards, pauses included."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def pauses(self) -> int:
        """Stored pauses of all shards."""
        return sum(shard.pauses for shard in self.shards)

    @property
    def expected_pause_fraction(self) -> float:
        """Expected share of pauses among the stored tokens, from the settings (and the lengths of documents)."""
        if self.strategy == "sequence":
            inserted = pauses_per_sequence(self.pause_rate, self.seq_length)
            return inserted / (self.seq_length + inserted)
        if self.strategy == "document":
            text = self.tokens - self.pauses - self.sequences
            return self.pause_rate * text / max(1.0, self.pause_rate * text + text + self.sequences)
        return self.pauses_per_token / (self.pauses_per_token + 1)  # 0 for the strategy none


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One ``.bin`` and ``.idx`` pair of a dataset folder: a shard, or shards merged."""

    name: str
    shards: tuple[ShardManifest, ...]
    """The shards whose ``.bin`` contents follow each other in the ``.bin`` file."""
    bin_bytes: int
    idx_bytes: int
    idx_sha256: str

    @property
    def sequences(self) -> int:
        """Stored sequences of the file."""
        return sum(shard.sequences for shard in self.shards)


def stored_files(manifest: DatasetManifest) -> tuple[StoredFile, ...]:
    """The files that the dataset of ``manifest`` consists of, in order."""
    if not manifest.merged:
        return tuple(shard_file(shard) for shard in manifest.shards)
    files, first = [], 0
    for file in manifest.merged:
        files.append(
            StoredFile(
                name=file.name,
                shards=manifest.shards[first : first + file.shards],
                bin_bytes=file.bin_bytes,
                idx_bytes=file.idx_bytes,
                idx_sha256=file.idx_sha256,
            )
        )
        first += file.shards
    return tuple(files)


def shard_file(shard: ShardManifest) -> StoredFile:
    """The files of a shard that has not been merged."""
    return StoredFile(
        name=shard.name,
        shards=(shard,),
        bin_bytes=shard.bin_bytes,
        idx_bytes=shard.idx_bytes,
        idx_sha256=shard.idx_sha256,
    )


def load_dataset_manifest(folder: Path) -> DatasetManifest:
    """Read ``dataset.json`` of ``folder`` and check that its files are there, by their sizes.

    What is in them is :mod:`~pause_megatron.preprocess.verification`'s to check.

    Raises :class:`UserError` when the folder is no dataset, is not finished, or a file is missing or of another size.
    """
    manifest = read_dataset_manifest(folder)
    for file in stored_files(manifest):
        check_stored_file(folder, file)
    return manifest


def read_dataset_manifest(folder: Path) -> DatasetManifest:
    """Read ``dataset.json`` of ``folder`` without a look at the files it describes.

    Raises :class:`UserError` when the folder is no dataset or is not finished.
    """
    path = folder / DATASET_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: no {DATASET_FILE}, so it is no dataset or not a finished one; "
            "write it, or finish it, with tools/preprocess_c4.py"
        )
    return _read(path, DatasetManifest, DATASET_FORMAT)


def read_shard_record(path: Path) -> ShardRecord:
    """Read ``NAME.json``. Raises :class:`UserError` when it is no record of a shard."""
    return _read(path, ShardRecord, SHARD_FORMAT)


def write_manifest(path: Path, manifest: DatasetManifest | ShardRecord) -> None:
    """Write a folder's or a shard's manifest, whole or not at all."""
    write_json(path, to_plain(manifest))


def check_stored_file(folder: Path, file: StoredFile) -> None:
    """Raise :class:`UserError` unless ``file`` in ``folder`` has the recorded sizes."""
    for suffix, size in ((".bin", file.bin_bytes), (".idx", file.idx_bytes)):
        path = folder / (file.name + suffix)
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            raise UserError(f"{path}: missing, though the dataset's manifest lists it")
        if found != size:
            raise UserError(
                f"{path}: has {found} bytes, its manifest says {size}; remove the shard's files and preprocess again"
            )


def differing_setting(settings: DatasetSettings, others: DatasetSettings) -> str | None:
    """The name of the first setting in which the two differ, or None."""
    names = (field.name for field in fields(DatasetSettings))
    return next((name for name in names if getattr(settings, name) != getattr(others, name)), None)


_Manifest = TypeVar("_Manifest", DatasetManifest, ShardRecord)


def _read(path: Path, kind: type[_Manifest], expected_format: str) -> _Manifest:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Tagged).format
        if found != expected_format:
            raise UserError(
                f"{path}: format '{found}', expected '{expected_format}'; it was written by another version of this "
                "project: preprocess again"
            )
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a manifest of this project: {error}") from error


class _Tagged(msgspec.Struct):
    format: str
