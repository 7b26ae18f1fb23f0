"""Record of a repeated published experiment: ``reproduction.json`` of ``pause-megatron reproduce``."""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """One arm of an experiment: models that differ only in their seed."""

    name: str
    num_pauses: int
    """Pauses in each prompt, in finetuning and at inference."""
    hint_weight: float
    """Weight of the loss at the pauses; 0 without that loss."""
    published: str
    """The published result of this arm, in words."""
    values: tuple[float, ...]
    """Score of each seed, 0 to 1."""
    num_samples: int
    """Test items of each seed; every seed has its own."""
    item_interval: Interval
    """Of the mean over all items of all seeds (Wilson)."""
    seed_interval: Interval | None = None
    """Of the mean over seeds (Student's t); None for a single seed, or if all seeds have the same score."""
    steps: int
    """Optimizer steps of each finetuning."""
    tokens: int
    """Tokens that each finetuning read, pauses and targets included."""
    seconds: float
    """Wall time of a finetuning, mean over seeds."""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("an arm has no values")


@dataclass(frozen=True, kw_only=True)
class ArmDifference:
    """Difference of two arms: the mean over seeds of the first's score minus the second's."""

    first: str
    second: str
    value: float
    interval: Interval | None = None
    """By Student's t over the differences of each seed; None for a single seed, or if all seeds differ equally."""


@dataclass(frozen=True, kw_only=True)
class ReproductionRecord:
    """``reproduction.json``: the results of an experiment next to the published ones."""

    FORMAT: ClassVar[str] = "pause_megatron/reproduction/1"
    FILE: ClassVar[str] = "reproduction.json"
    PRODUCER: ClassVar[str] = "pause-megatron reproduce"

    format: str = FORMAT
    name: str
    """Name of the experiment, such as "parity-hints"."""
    title: str
    source: str
    """Publication, with its arXiv number."""
    published: str
    """Setting and result of the publication, in words."""
    metric: str
    chance: float
    """Score of guessing."""
    seeds: tuple[int, ...]
    arms: tuple[ArmRecord, ...]
    differences: tuple[ArmDifference, ...]
    deviations: tuple[str, ...]
    """What differs from the publication."""
    parameters: int
    """Parameters of the model with the most positions."""
    device: str
    settings: dict[str, Any]
    """The experiment's definition with every value that was replaced."""
    versions: dict[str, str]
    """Package to installed version."""
    seconds: float
    """Wall time of all finetunings and evaluations, added up."""


@dataclass(frozen=True, kw_only=True)
class TextArmRecord:
    """One arm of an experiment on text: runs that continue from one model with the same pauses, one for each seed."""

    name: str
    num_pauses: int
    """Pauses after each token."""
    pause_positions: str
    """Position indices of the pauses: "shift" or "shared"."""
    distinct: bool
    """Whether the pauses after a token differ."""
    published: str
    """The published result of this arm, in words."""
    losses: tuple[float, ...]
    """Held-out loss of each seed, in nats per real token."""
    loss: float
    """Mean over seeds."""
    perplexity: float
    """exp(loss)."""
    seed_error: float | None = None
    """Standard error of ``loss`` over seeds; None for one seed."""
    real_tokens: int
    """Real tokens that each run continued on."""
    pause_tokens: int
    """Pauses that each run continued on."""
    flops: int
    """Model FLOPs of each run's continuation."""
    seconds: float
    """Time of a run's steps, mean over seeds."""

    def __post_init__(self) -> None:
        if not self.losses:
            raise ValueError("an arm has no losses")


@dataclass(frozen=True, kw_only=True)
class TextArmDifference:
    """Difference of two arms' held-out losses, the first's minus the second's, in nats per real token."""

    first: str
    second: str
    values: tuple[float, ...]
    """Difference of each seed."""
    value: float
    """Mean over seeds."""
    text_error: float | None = None
    """Standard error over other held-out text, paired by blocks of the text; None for fewer than two blocks."""
    seed_error: float | None = None
    """Standard error over other seeds, paired by seed; None for one seed."""
    interval: Interval | None = None
    """By both errors; None if neither is known."""


@dataclass(frozen=True, kw_only=True)
class TextReproductionRecord:
    """``reproduction.json`` of an experiment on text."""

    FORMAT: ClassVar[str] = "pause_megatron/text-reproduction/1"
    FILE: ClassVar[str] = ReproductionRecord.FILE
    PRODUCER: ClassVar[str] = ReproductionRecord.PRODUCER

    format: str = FORMAT
    name: str
    """Name of the experiment, such as "c4-every"."""
    title: str
    source: str
    """Publications, with their arXiv numbers."""
    published: str
    """Setting and result of the publications, in words."""
    seeds: tuple[int, ...]
    plain_loss: float
    """Held-out loss of the model that the arms continue from, without pauses, in nats per token."""
    plain_tokens: int
    """Tokens that this model was trained on."""
    plain_seconds: float
    """Time of its steps."""
    held_out_targets: int
    """Real targets of the held-out text, the same for all arms."""
    held_out_blocks: int
    """Blocks of the held-out text that differences are paired by."""
    arms: tuple[TextArmRecord, ...]
    differences: tuple[TextArmDifference, ...]
    meaning: str
    """What the result does and does not say."""
    deviations: tuple[str, ...]
    """What differs from the publications."""
    parameters: int
    """Parameters of the model, that of most if arms differ."""
    device: str
    settings: dict[str, Any]
    """The experiment's definition with every value that was replaced."""
    versions: dict[str, str]
    """Package to installed version."""
    seconds: float
    """Time of the steps of all trainings, added up."""
