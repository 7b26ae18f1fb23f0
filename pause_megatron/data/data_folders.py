"""Dataset folders of ``--data`` and ``--validation-data``, checked before any process group exists."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pause_megatron import log
from pause_megatron.config.blend import BlendComponent
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, load_dataset_manifest
from pause_megatron.tokenizer import PauseTokenizer


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """A folder that ``pause-megatron preprocess`` wrote, and how to read it."""

    path: Path
    name: str
    """Name in logs and results."""
    manifest: DatasetManifest
    seq_length: int
    weight: float | None
    """Weight in the blend; None if the blend has no weights."""

    @property
    def num_samples(self) -> int:
        """Number of samples. Documents need one more token, the last target; an incomplete last sample is not read."""
        if self.manifest.strategy == "document":
            return max(self.manifest.tokens - 1, 0) // self.seq_length
        return self.manifest.sequences

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of all shards in order; merging does not change it."""
        sums = "".join(f"{shard.bin_sha256} {shard.idx_sha256}\n" for shard in self.manifest.shards)
        return hashlib.sha256(sums.encode()).hexdigest()


def check_training_folders(
    parts: Sequence[BlendComponent],
    tokenizer: PauseTokenizer,
    *,
    seq_length: int,
    max_position_embeddings: int,
    shares_positions: bool = False,
) -> tuple[DataFolder, ...]:
    """Check the folders of ``--data``, which must all have samples of one length.

    ``seq_length`` is the value of ``--seq-length`` (0: not given). With ``shares_positions``, only real tokens need a
    position. Raises :class:`UserError` that names the folder or
    the flag if a folder is not a dataset, is too small or was written with another tokenizer, or if the lengths
    contradict each other or exceed the model's positions.
    """
    manifests = [_load(part.folder, tokenizer) for part in parts]
    for part, manifest in zip(parts, manifests, strict=True):
        if not manifest.seq_length:
            continue
        if seq_length and manifest.seq_length != seq_length:
            raise UserError(
                f"{part.folder}: has sequences of {manifest.seq_length} tokens, but the samples of --data have "
                f"{seq_length}; blend datasets of one length, and omit --seq-length or set it to that length"
            )
        seq_length = manifest.seq_length
    length = seq_length or max_position_embeddings
    return _checked(parts, manifests, [length] * len(parts), max_position_embeddings, shares_positions)


def check_validation_folders(
    parts: Sequence[BlendComponent],
    tokenizer: PauseTokenizer,
    *,
    seq_length: int,
    max_position_embeddings: int,
    shares_positions: bool = False,
) -> tuple[DataFolder, ...]:
    """Check the folders of ``--validation-data``; documents are cut to ``seq_length``, the training samples' length.

    Each folder may have its own length. Raises :class:`UserError` as :func:`check_training_folders` does.
    """
    manifests = [_load(part.folder, tokenizer) for part in parts]
    lengths = [manifest.seq_length or seq_length for manifest in manifests]
    return _checked(parts, manifests, lengths, max_position_embeddings, shares_positions)


def _load(path: Path, tokenizer: PauseTokenizer) -> DatasetManifest:
    manifest = load_dataset_manifest(path)
    if manifest.tokenizer_sha256 != tokenizer.sha256:
        raise UserError(
            f"{path}: was written with another tokenizer than --tokenizer {tokenizer.path} (sha256"
            f" {manifest.tokenizer_sha256[:12]} and {tokenizer.sha256[:12]}); use the tokenizer of the dataset"
        )
    for name in ("pause_id", "distinct_pauses", "eod_id", "vocab_size"):
        if getattr(manifest, name) != getattr(tokenizer, name):
            raise UserError(
                f"{path}: was written with {name} {getattr(manifest, name)}, but --tokenizer {tokenizer.path} has "
                f"{getattr(tokenizer, name)}; preprocess the data again"
            )
    if manifest.bos_ids != (start := tokenizer.document_start or None):
        log.warn(
            f"{path}: its documents begin with the ids {list(manifest.bos_ids or ())}, but --tokenizer {tokenizer.path}"
            f" puts {list(start or ())} before texts; preprocess the data again to train as the model is used"
        )
    return manifest


def _checked(
    parts: Sequence[BlendComponent],
    manifests: Sequence[DatasetManifest],
    lengths: Sequence[int],
    max_positions: int,
    shares_positions: bool,
) -> tuple[DataFolder, ...]:
    folders = []
    names = [part.folder.name for part in parts]
    for part, name, manifest, length in zip(parts, names, manifests, lengths, strict=True):
        needed = manifest.most_real_tokens(length) if shares_positions else length
        if needed > max_positions:
            source = f"{part.folder}: sequences" if manifest.seq_length else f"--seq-length {length}: samples"
            kind = "real tokens" if shares_positions else "tokens"
            raise UserError(
                f"{source} of {needed} {kind} are longer than --max-position-embeddings {max_positions}; raise it"
            )
        folder = DataFolder(
            path=part.folder,
            name=name if names.count(name) == 1 else str(part.folder),
            manifest=manifest,
            seq_length=length,
            weight=part.weight,
        )
        if not folder.num_samples:
            raise UserError(f"{part.folder}: has no sequence of {length} tokens; preprocess more text")
        folders.append(folder)
    return tuple(folders)
