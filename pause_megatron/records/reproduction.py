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
