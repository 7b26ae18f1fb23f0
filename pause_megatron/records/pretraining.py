"""Records of a pretraining run: ``run.json``, and the lines of its ``metrics.jsonl``."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

KindOfRates = Literal["drawn", "drawn+fixed"]
"""Rates of pauses that differ between the sequences or documents of all or of a part of the training data."""

METRICS_FILE = "metrics.jsonl"
"""In the folder of a pretraining run and of a finetuned model."""


@dataclass(frozen=True, kw_only=True)
class DataFolderRecord:
    """One folder of the training data."""

    folder: str
    weight: float | None
    """Weight in a blend; None if the data is not a weighted blend."""
    strategy: str
    """Pause strategy of the dataset: "sequence", "document", "every" or "none"."""
    seed: int
    """Seed of the pause positions."""
    samples: int
    """Sequences."""
    fingerprint: str
    """Hash of the dataset's content."""


@dataclass(frozen=True, kw_only=True)
class TrainingDataRecord:
    """The training data of a run."""

    strategy: str
    """Pause strategy; those of a blend in alphabetical order, joined by "+"."""
    pause_rate: float
    """Pauses per real token, before trimming; for a blend the weighted mean."""
    seq_length: int
    """Tokens of a sequence."""
    samples: int
    """Sequences of all folders."""
    folders: tuple[DataFolderRecord, ...]
    pauses_per_token: int | None = None
    """Pauses of a group, if all folders have the strategy "every" with the same groups; else None."""
    pause_interval: int | None = None
    """Real tokens between two groups of pauses, in the same case; None in all other cases."""
    rates: KindOfRates | None = None
    """"drawn" if each sequence or document has a rate of its own, drawn uniformly from 0 to twice ``pause_rate``,
    "drawn+fixed" in a blend of both; None if all have the same rate."""


@dataclass(frozen=True, kw_only=True)
class DeviceRecord:
    """Devices of a run, and the software that computes on them."""

    devices: dict[str, int]
    """Name of a device, such as "NVIDIA H100 80GB HBM3", to the number of ranks that compute on one."""
    driver: str | None = None
    """Version of NVIDIA's driver; None on CPUs."""
    cuda: str | None = None
    """Version of CUDA that PyTorch is built for; None on CPUs."""
    nccl: str | None = None
    """Version of NCCL; None on CPUs."""
    attention: str
    """Kernel of PyTorch's attention: cudnn, flash, efficient or math."""
    compilation: str
    """Whether the layers are compiled, and why."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """``run.json``: configuration and provenance of a pretraining run."""

    FORMAT: ClassVar[str] = "pause_megatron/run/1"
    FILE: ClassVar[str] = "run.json"
    PRODUCER: ClassVar[str] = "pause-megatron pretrain"

    format: str = FORMAT
    name: str
    """Name of the run's folder."""
    model_name: str | None = None
    """Name of the model, which its runs with other seeds share; None in a file of an older version."""
    seed: int | None = None
    """Seed of the initial weights and of the data order; None in a file of an older version."""
    config: dict[str, Any]
    """Resolved configuration."""
    directory: str | None = None
    """Directory that relative paths of ``config`` start from, relative to the run's folder; None in a file of an older
    version."""
    deepspeed: dict[str, Any]
    """Content of the DeepSpeed file."""
    versions: dict[str, str]
    """Package to installed version."""
    dataset: TrainingDataRecord
    parameters: int
    """Parameters of the model, without padding rows of the vocabulary."""
    non_embedding_parameters: int | None = None
    """Parameters without the embeddings of tokens and positions and without the output layer; None in a file of an
    older version."""
    world_size: int
    """Ranks."""
    zero_stage: int
    """ZeRO stage, 0 to 3."""
    flops_per_sequence: int | None = None
    """Model FLOPs of training on one sequence, see :mod:`~pause_megatron.costs.flops`; None in a file of an older
    version."""
    devices: DeviceRecord | None = None
    """None in a file of an older version."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.model_name or self.name


@dataclass(frozen=True, kw_only=True)
class PauseEmbeddingRecord:
    """The embedding of ``<pause>`` after a step; norms are Euclidean."""

    norm: float
    norm_of_all_rows: float
    """Root mean square of the norms of all rows of the word embeddings."""
    movement: float
    """Distance from its initial value, which the seed decides; the same after a restart."""
    movement_since_last: float
    """Distance from its value in the previous record."""
    cosine_with_initial: float
    """Cosine similarity with its initial value."""
    gradient_share: float | None = None
    """Its share of the squared global gradient norm, 0 to 1; None if the step changed no weight."""


def perplexity(loss: float) -> float:
    """exp(``loss``); infinite if that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


@dataclass(frozen=True, kw_only=True)
class LossRecord:
    """Mean losses over real targets, in nats."""

    loss: float
    perplexity: float
    """exp(loss); infinite if that overflows."""
    loss_after_real: float | None = None
    """Loss of targets that follow a real token."""
    loss_after_pause: float | None = None
    """Loss of targets that follow a pause; None without pauses."""
    loss_by_pause_run: dict[str, float] | None = None
    """Loss by the number of pauses directly before the target, "0" to "8+"."""
    targets_by_pause_run: dict[str, int] | None = None
    """Number of those targets."""


@dataclass(frozen=True, kw_only=True)
class TrainRecord(LossRecord):
    """The training steps since the previous record."""

    KIND: ClassVar[str] = "train"

    iteration: int
    """The last of the steps."""
    consumed_samples: int
    """Sequences since the run began, including those of skipped batches."""
    steps: int
    """Steps of this record."""
    skipped_steps: int
    """Steps that changed no weight."""
    batch_size: int
    """Sequences of the last step."""
    last_loss: float
    """Loss of the last step."""
    grad_norm: float | None = None
    """Global gradient norm before clipping, of the last step that changed weights; None if no step did."""
    loss_scale: float | None = None
    """Loss scale; None unless the precision is fp16."""
    learning_rate: float
    """Learning rate of the last step."""
    seconds_per_step: float
    tokens_per_second: float
    """Tokens of all ranks, including pauses."""
    tflops_per_device: float
    """Model TFLOP/s of one device."""
    mfu: float | None = None
    """Model FLOPs utilisation, 0 to 1; None if the peak of the device is unknown."""
    seconds_left: float
    """Estimated time to the end of the run."""
    memory_bytes: int
    """Peak memory of the rank that uses most."""
    real_tokens: int
    """Real tokens since the run began."""
    pause_tokens: int
    """Pauses since the run began."""
    pause_embedding: PauseEmbeddingRecord
    """The embedding of ``<pause>``, or of the first of several distinct pauses."""
    pause_embeddings: dict[str, PauseEmbeddingRecord] | None = None
    """Name to embedding of each of several distinct pauses; None with one ``<pause>``."""


@dataclass(frozen=True, kw_only=True)
class ValidationRecord(LossRecord):
    """One validation on one held-out dataset."""

    KIND: ClassVar[str] = "validation"

    iteration: int
    dataset: str
    """Name of the held-out dataset, or of the mean over several."""
    pauses: str
    """Its pause strategy."""
    real_tokens: int
    """Real targets of the held-out dataset."""
    block_losses: tuple[float, ...] = ()
    """Mean loss of each block of consecutive sequences, for paired comparisons; empty for a mean over datasets and in
    files of older versions."""
    block_targets: tuple[int, ...] = ()
    """Real targets of each block."""


@dataclass(frozen=True, kw_only=True)
class ResumedRecord:
    """The run resumed from a checkpoint; records of later iterations before this line were lost and are repeated."""

    KIND: ClassVar[str] = "resumed"

    iteration: int
    """Iteration of the checkpoint."""
    checkpoint: str
    """Folder of the checkpoint."""
    checkpoint_layout: str
    """Parallel layout that wrote the checkpoint."""
    layout: str
    """Parallel layout now."""
    restarts: int
    """How often the run has resumed, this time included."""


@dataclass(frozen=True, kw_only=True)
class BadBatchRecord:
    """A batch changed no weight, because its loss or gradient was not finite or its loss was a spike."""

    KIND: ClassVar[str] = "bad_batch"

    iteration: int
    reason: str
    documents: tuple[str, ...]
    """Provenance of the batch's sequences."""


MetricsRecord = TrainRecord | ValidationRecord | ResumedRecord | BadBatchRecord
METRICS_KINDS = (TrainRecord, ValidationRecord, ResumedRecord, BadBatchRecord)
"""Records of a run's ``metrics.jsonl``."""
