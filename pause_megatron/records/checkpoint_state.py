"""Record of a run in its checkpoint: the key ``state`` of a checkpoint's ``manifest.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pause_megatron.records.conversion import PretrainingRecord
from pause_megatron.records.files import convert_record, path_of_record, plain_record
from pause_megatron.records.pretraining import DataFolderRecord, DeviceRecord, KindOfRates


@dataclass(frozen=True, kw_only=True)
class RecentLosses:
    """State of the search for bad batches."""

    losses: tuple[float, ...]
    """Losses of the last good batches, oldest first, in nats."""
    bad_in_a_row: int
    """Consecutive bad batches up to the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class CheckpointDataRecord:
    """The training data up to a checkpoint; see :class:`~pause_megatron.records.pretraining.TrainingDataRecord`."""

    strategy: str
    """Pause strategy; "none" for a model converted from Hugging Face."""
    pause_rate: float
    """Pauses per real token, before trimming."""
    seq_length: int
    """Tokens of a sequence."""
    samples: int | None = None
    """Sequences of all folders; None for a model converted from Hugging Face."""
    folders: tuple[DataFolderRecord, ...] | None = None
    """None for a model converted from Hugging Face."""
    pauses_per_token: int | None = None
    """Pauses of a group, for the strategy "every"; None for other strategies and for blends of several."""
    pause_interval: int | None = None
    """Real tokens between two groups of pauses, for the strategy "every"; else None."""
    rates: KindOfRates | None = None
    """"drawn" or "drawn+fixed" if sequences or documents have rates of their own; None if all have the same."""


@dataclass(frozen=True, kw_only=True)
class GenerationTokens:
    """Special tokens that the configuration of a Hugging Face model names; its tokenizer does not know all of them."""

    bos_id: int | None
    """Token that starts a text; None if there is none."""
    stop_ids: tuple[int, ...]
    """Tokens that end generation, for example end-of-document and the end of a chat message."""


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """Position in the data, configuration and provenance of a checkpoint."""

    iteration: int
    """Optimizer steps."""
    consumed_samples: int
    """Training sequences."""
    validated_iteration: int | None = None
    """Iteration of the last validation; None for a model converted from Hugging Face."""
    bad_batches: RecentLosses | None = None
    """None for a model converted from Hugging Face."""
    real_tokens: int
    """Real tokens since the run began."""
    pause_tokens: int
    """Pauses since the run began."""
    layout: str
    """Parallel layout that wrote the checkpoint."""
    vocab_size: int
    tokenizer_sha256: str
    """SHA-256 of the tokenizer's file."""
    dataset: CheckpointDataRecord
    config: dict[str, Any]
    """Resolved configuration; at least ``model``, ``tokenizer``, ``output`` and ``data``."""
    directory: str | None = None
    """Directory that relative paths of ``config`` start from, relative to the checkpoint's folder; None for a model
    converted from Hugging Face, and in a checkpoint of an older version, which mean the current directory."""
    generation: GenerationTokens | None = None
    """None unless the weights come from a Hugging Face model; training passes it on."""
    converted_from: str | None = None
    """Hugging Face folder; None for a checkpoint of a run."""
    pretraining: PretrainingRecord | None = None
    """How the converted model was pretrained; None for a checkpoint of a run, and for a model without such a record."""
    versions: dict[str, str]
    """Package to installed version."""
    devices: DeviceRecord | None = None
    """None for a model converted from Hugging Face, and in a checkpoint of an older version."""

    @classmethod
    def read(cls, values: dict[str, Any], folder: Path) -> CheckpointState:
        """Return the record of ``values``, the ``state`` in the manifest of the checkpoint in ``folder``.

        Raises :class:`~pause_megatron.errors.UserError` that names the folder and the key when a key is missing,
        unknown or of another type.
        """
        return convert_record(values, cls, f"{folder} (state)", "give a checkpoint of this version")

    def resolve(self, path: Path | str, folder: Path) -> Path:
        """Return ``path`` of :attr:`config` as seen from the current directory; ``folder`` is the checkpoint's."""
        return path_of_record(path, self.directory, folder)

    def to_plain(self) -> dict[str, Any]:
        """Return the record as JSON-ready data."""
        values: dict[str, Any] = plain_record(self)
        return values
