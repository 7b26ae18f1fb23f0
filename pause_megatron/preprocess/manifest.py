"""What a dataset folder holds, and the check that it is whole.

For each input file there are ``NAME.bin`` and ``NAME.idx`` (Megatron indexed dataset; every document in it is one
sequence of exactly ``seq_length`` tokens) and, written after them, ``NAME.json``: format, settings, and the shard's
entry. ``dataset.json``, written when all shards are done, holds the settings and all entries; a folder without it is no
dataset. The fields are those of the classes below.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pause_megatron.atomic import write_json
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError

DATASET_FILE = "dataset.json"
DATASET_FORMAT = "pause_megatron/dataset/1"
SHARD_FORMAT = "pause_megatron/shard/1"


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """What decides a dataset's bytes, besides the text and its order."""

    strategy: Literal["sequence", "none"]
    """Where pauses were inserted; ``--pauses``."""
    pause_rate: float
    """Pauses inserted per real token before trimming; 0 for the strategy ``none``."""
    seq_length: int
    """Tokens in every stored sequence."""
    seed: int
    """Seed of the pause positions."""
    trimmed: Literal["carry", "drop"]
    """``carry`` when each sequence continues the text of the one before it in its shard, else ``drop``."""
    tokenizer_sha256: str
    """SHA-256 of the SentencePiece model."""
    vocab_size: int
    """Tokens of the tokenizer, special ones included; ids are below it."""
    pause_id: int
    """Id of ``<pause>``."""
    eod_id: int
    """Id of the end-of-document token, which stands behind every document."""


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """One shard: what it was made from, what it holds, and how its files can be checked."""

    name: str
    """File name of the shard without ``.bin`` or ``.idx``."""
    index: int
    """Position of the input among all inputs in sorted order; the pause positions depend on it."""
    input: str
    """The file it was made from."""
    input_bytes: int
    """Size of that file."""
    documents: int
    """Documents read, without empty ones."""
    empty_documents: int
    """Documents without any text; left out."""
    sequences: int
    """Stored sequences."""
    tokens: int
    """Stored tokens, pauses included."""
    pauses: int
    """Stored pauses."""
    dropped_tokens: int
    """Real tokens not stored: the end of the shard that fills no sequence, and what ``trimmed="drop"`` drops."""
    bin_bytes: int
    """Size of the ``.bin`` file."""
    bin_sha256: str
    """SHA-256 of the ``.bin`` file."""
    idx_bytes: int
    """Size of the ``.idx`` file."""
    idx_sha256: str
    """SHA-256 of the ``.idx`` file."""

    @property
    def real_tokens(self) -> int:
        """Stored tokens that are no pauses; ends of documents count as real."""
        return self.tokens - self.pauses


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Content of ``NAME.json``."""

    format: str
    settings: DatasetSettings
    shard: ShardManifest


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(DatasetSettings):
    """Content of ``dataset.json``."""

    format: str
    shards: tuple[ShardManifest, ...]
    """In the order of their indices."""
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


def load_dataset_manifest(folder: Path, verify_hashes: bool = False) -> DatasetManifest:
    """Read ``dataset.json`` of ``folder`` and check that its shards are there in full.

    Sizes are always compared; ``verify_hashes`` reads all files and compares their SHA-256 too.

    Raises :class:`UserError` when the folder is no dataset, is not finished, or a file is missing or has changed.
    """
    path = folder / DATASET_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: no {DATASET_FILE}, so it is no dataset or not a finished one; "
            "write it, or finish it, with tools/preprocess_c4.py"
        )
    manifest = _read(path, DatasetManifest, DATASET_FORMAT)
    for shard in manifest.shards:
        check_shard_files(folder, shard, verify_hashes)
    return manifest


def read_shard_record(path: Path) -> ShardRecord:
    """Read ``NAME.json``. Raises :class:`UserError` when it is no record of a shard."""
    return _read(path, ShardRecord, SHARD_FORMAT)


def write_manifest(path: Path, manifest: DatasetManifest | ShardRecord) -> None:
    """Write a folder's or a shard's manifest, whole or not at all."""
    write_json(path, to_plain(manifest))


def check_shard_files(folder: Path, shard: ShardManifest, verify_hashes: bool = False) -> None:
    """Raise :class:`UserError` unless ``shard``'s files in ``folder`` have the recorded sizes (and SHA-256)."""
    recorded = ((".bin", shard.bin_bytes, shard.bin_sha256), (".idx", shard.idx_bytes, shard.idx_sha256))
    for suffix, size, sha256 in recorded:
        path = folder / (shard.name + suffix)
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            raise UserError(f"{path}: missing, though the dataset's manifest lists it")
        if found != size:
            raise UserError(
                f"{path}: has {found} bytes, its manifest says {size}; remove the shard and preprocess again"
            )
        if verify_hashes and _sha256(path) != sha256:
            raise UserError(
                f"{path}: its content has changed since it was written; remove the shard and preprocess again"
            )


def differing_setting(settings: DatasetSettings, others: DatasetSettings) -> str | None:
    """The name of the first setting in which the two differ, or None."""
    names = (field.name for field in fields(DatasetSettings))
    return next((name for name in names if getattr(settings, name) != getattr(others, name)), None)


_Manifest = TypeVar("_Manifest", DatasetManifest, ShardRecord)


def _read(path: Path, kind: type[_Manifest], expected_format: str) -> _Manifest:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a manifest of this project: {error}") from error
    if manifest.format != expected_format:
        raise UserError(f"{path}: format '{manifest.format}', expected '{expected_format}'")
    return manifest


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
