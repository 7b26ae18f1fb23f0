"""What a report is made of, as frozen records: evaluation results and pretraining runs.

Their fields are those of the files (see ``collect``); what a file holds beyond them is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one evaluation."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answered test item; ``correct`` is its score, 0 to 1."""

    prompt: str
    pauses: int
    output: str
    target: str
    correct: float


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How the evaluated model was pretrained. ``pauses`` is the strategy of its dataset, "none" for standard."""

    name: str
    pauses: str
    iterations: int | None = None
    consumed_samples: int | None = None
    real_tokens: int | None = None
    pause_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of the evaluated model."""

    parameters: int
    num_layers: int
    num_attention_heads: int
    head_dim: int
    hidden_size: int


@dataclass(frozen=True, kw_only=True)
class FinetuneStep:
    """One logged step of finetuning."""

    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One result file of ``pause-megatron evaluate``."""

    task: str
    num_pauses_inf: int
    primary_metric: str
    metrics: dict[str, Metric]
    num_samples: int
    variant: str | None = None
    num_pauses_ft: int | None = None
    prefix_attention: str = "bidirectional"
    pause_placement: str = "append"
    filler: str | None = None
    seed: int | None = None
    chance: float | None = None
    samples: tuple[Sample, ...] = ()
    architecture: Architecture | None = None
    prompt_tokens: float | None = None
    """Mean length of the prompts without their pauses (tokens)."""
    finetuning: dict[str, Any] | None = None
    pretraining: Pretraining | None = None
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    source: Path = Path()
    finetuning_curve: tuple[FinetuneStep, ...] = ()

    @property
    def primary(self) -> Metric:
        """The metric the variants are compared by."""
        return self.metrics[self.primary_metric]

    @property
    def fewest_pauses_ft(self) -> int | None:
        """The smallest M_ft where it was drawn for each example, up to ``num_pauses_ft``; None where it was fixed."""
        return (self.finetuning or {}).get("min_num_pauses_ft")

    @property
    def placement_ft(self) -> str:
        """Where the pauses stood in finetuning; "append" where there were none."""
        return (self.finetuning or {}).get("pause_placement", "append") if self.num_pauses_ft else "append"

    @property
    def model(self) -> str:
        """The variant, or for a model that was not finetuned its pretraining: "stdpt", "pausept", "other"."""
        if self.variant is not None:
            return self.variant
        if self.pretraining is None:
            return "other"
        return "stdpt" if self.pretraining.pauses == "none" else "pausept"


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """One logged step of pretraining; token counts are cumulative, ``loss`` is over real targets."""

    iteration: int
    loss: float
    tokens_per_second: float
    real_tokens: int
    pause_tokens: int
    consumed_samples: int = 0


@dataclass(frozen=True, kw_only=True)
class ValidationRecord:
    """One validation on one held-out dataset: loss over real targets."""

    iteration: int
    dataset: str
    pauses: str
    loss: float
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class PretrainRun:
    """One run folder of ``pause-megatron pretrain``; ``train`` is never empty."""

    name: str
    config: dict[str, Any]
    dataset: dict[str, Any]
    parameters: int
    world_size: int
    zero_stage: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    source: Path = Path()
    train: tuple[TrainRecord, ...] = ()
    validation: tuple[ValidationRecord, ...] = ()

    @property
    def is_standard(self) -> bool:
        """Whether the training data held no pauses."""
        return bool(self.dataset.get("strategy", "none") == "none")

    @property
    def last(self) -> TrainRecord:
        """The newest training record."""
        return self.train[-1]

    def last_validation(self, dataset: str) -> ValidationRecord | None:
        """The newest validation on ``dataset``."""
        return next((record for record in reversed(self.validation) if record.dataset == dataset), None)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """All that a report says, before any statistics."""

    evaluations: tuple[Evaluation, ...]
    runs: tuple[PretrainRun, ...]
