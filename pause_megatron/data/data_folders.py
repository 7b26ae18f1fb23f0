"""The folders of a blend, checked before any process group exists; nothing is opened yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.blend import BlendComponent
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, load_dataset_manifest
from pause_megatron.tokenizer import PauseTokenizer


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """One folder written by ``tools/preprocess_c4.py``, and how it is read."""

    path: Path
    name: str
    """What results call it."""
    manifest: DatasetManifest
    seq_length: int
    """Tokens of a sample."""
    weight: float | None
    """Its weight in the blend; None when the blend has none."""

    @property
    def num_samples(self) -> int:
        """Samples it holds. One of documents needs one token more than it has, its last target; a rest is not read."""
        if self.manifest.strategy == "document":
            return max(self.manifest.tokens - 1, 0) // self.seq_length
        return self.manifest.sequences

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of all shards in order; the same before and after they are merged."""
        digest = hashlib.sha256()
        for shard in self.manifest.shards:
            digest.update(f"{shard.bin_sha256} {shard.idx_sha256}\n".encode())
        return digest.hexdigest()


def check_training_folders(
    parts: Sequence[BlendComponent], tokenizer: PauseTokenizer, *, seq_length: int, max_position_embeddings: int
) -> tuple[DataFolder, ...]:
    """The folders of ``--data``, all read in samples of one length.

    ``seq_length`` is what ``--seq-length`` says, 0 for nothing. Raises :class:`UserError` naming the folder or the flag
    when a folder is no dataset or too small, was written with another tokenizer, or when lengths contradict each other
    or the model's positions.
    """
    manifests = [_load(part.folder, tokenizer) for part in parts]
    for part, manifest in zip(parts, manifests, strict=True):
        if not manifest.seq_length:
            continue
        if seq_length and manifest.seq_length != seq_length:
            raise UserError(
                f"{part.folder} has sequences of {manifest.seq_length} tokens, but the samples of --data have "
                f"{seq_length}: blend datasets of one length, and give --seq-length, if at all, that length"
            )
        seq_length = manifest.seq_length
    length = seq_length or max_position_embeddings
    return _checked(parts, manifests, [length] * len(parts), max_position_embeddings)


def check_validation_folders(
    parts: Sequence[BlendComponent], tokenizer: PauseTokenizer, *, seq_length: int, max_position_embeddings: int
) -> tuple[DataFolder, ...]:
    """The folders of ``--validation-data``; documents are cut to ``seq_length``, the length of the training samples.

    Raises :class:`UserError` as :func:`check_training_folders`; each folder may have a length of its own.
    """
    manifests = [_load(part.folder, tokenizer) for part in parts]
    lengths = [manifest.seq_length or seq_length for manifest in manifests]
    return _checked(parts, manifests, lengths, max_position_embeddings)


def _load(path: Path, tokenizer: PauseTokenizer) -> DatasetManifest:
    manifest = load_dataset_manifest(path)
    if manifest.tokenizer_sha256 != tokenizer.sha256:
        raise UserError(
            f"{path} was written with another tokenizer than --tokenizer {tokenizer.path}"
            f" (sha256 {manifest.tokenizer_sha256[:12]} and {tokenizer.sha256[:12]})"
        )
    for name in ("pause_id", "eod_id", "vocab_size"):
        if getattr(manifest, name) != getattr(tokenizer, name):
            raise UserError(
                f"{path} was written with {name} {getattr(manifest, name)}, but --tokenizer {tokenizer.path} has "
                f"{getattr(tokenizer, name)}; preprocess again"
            )
    return manifest


def _checked(
    parts: Sequence[BlendComponent], manifests: Sequence[DatasetManifest], lengths: Sequence[int], max_positions: int
) -> tuple[DataFolder, ...]:
    folders = []
    names = [part.folder.name for part in parts]
    for part, manifest, length in zip(parts, manifests, lengths, strict=True):
        if length > max_positions:
            whose = f"{part.folder} has sequences of" if manifest.seq_length else f"--seq-length {length}: samples have"
            raise UserError(f"{whose} {length} tokens, longer than --max-position-embeddings {max_positions}")
        name = part.folder.name
        folder = DataFolder(
            path=part.folder,
            name=name if names.count(name) == 1 else str(part.folder),
            manifest=manifest,
            seq_length=length,
            weight=part.weight,
        )
        if not folder.num_samples:
            raise UserError(f"{part.folder}: the dataset has no sequence of {length} tokens; give more text")
        folders.append(folder)
    return tuple(folders)
