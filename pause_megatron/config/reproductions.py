"""Configuration of ``pause-megatron reproduce``, and the content of an experiment's definition."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.generated_tasks import TASK_PARAMETERS, Lookup, Parity, ThreeSum
from pause_megatron.config.parallel import DeviceChoice
from pause_megatron.errors import UserError

EXPERIMENTS = Path(__file__).parents[1] / "experiments" / "reproductions"
"""Folder of the definitions, one file NAME.yaml for each experiment."""
PER_HINT: Literal["per hint"] = "per hint"
"""Value of ``num_pauses``: as many pauses as the task has hints, for example one for each bit of parity."""


def experiment_names() -> list[str]:
    """Return the names of the experiments."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Repeat a published small experiment, and print its numbers next to the published ones.

    Writes reproduction.json, reproduction.md and a report. The same command resumes an interrupted experiment.

    parity-hints: parity with labels at the pauses (London and Kanade 2025). parity: the same without labels. 3sum: a
    parallel chain of thought at the pauses (Pfau et al. 2024). c4-every: perplexity of C4 with pauses after every token
    (PonderLM, TG-Interpolation); needs --text and --validation-text.

    For example: pause-megatron reproduce parity-hints --output reproductions/parity-hints --jobs 2
    """

    POSITIONAL: ClassVar[str] = "experiment"

    experiment: str
    """Name of the experiment: parity-hints, parity, 3sum or c4-every."""
    output: Path
    """Folder for all files of the experiment."""
    text: tuple[str, ...] = ()
    """Training text of c4-every: C4 files (.json.gz), as paths or quoted globs."""
    validation_text: tuple[str, ...] = ()
    """Held-out text of c4-every."""
    seeds: tuple[int, ...] = ()
    """Seeds; each decides initial weights, data and their order, for c4-every only the order of the data (default:
    those of the experiment)."""
    bits: int | None = None
    """Bits of a question of parity, for example 100 on a GPU (default: those of the experiment)."""
    set: tuple[str, ...] = ()
    """Values that replace those of the experiment, each as KEY=VALUE in YAML, with dots between keys, e.g.
    finetune.steps=5000 sizes.train=500000."""
    jobs: int = 1
    """Trainings that run at the same time on this machine."""
    device: DeviceChoice = "auto"
    """Device of all commands; auto: as in the single commands."""

    GROUPS: ClassVar[dict[str, str]] = {"experiment": "experiment"}

    def __post_init__(self) -> None:
        if self.experiment not in experiment_names():
            raise UserError(f"--experiment {self.experiment}: unknown; choose from {', '.join(experiment_names())}")
        require_at_least(1, jobs=self.jobs, bits=1 if self.bits is None else self.bits)
        require_at_least(0, seeds=min(self.seeds, default=0))

    @property
    def changes(self) -> tuple[str, ...]:
        """The values that differ from the definition, as typed, without the seeds."""
        return (*((f"bits {self.bits}",) if self.bits is not None else ()), *self.set)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm of an experiment."""

    name: str
    num_pauses: int | Literal["per hint"]
    """Pauses in finetuning and at inference."""
    hint_weight: float = 0.0
    """Weight of the loss at the pauses, whose labels are the task's hints."""
    published: str
    """The published result of this arm, in words."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A definition ``reproductions/NAME.yaml``: models that are finetuned from random weights on a generated task."""

    title: str
    source: str
    """Publication, with its arXiv number."""
    published: str
    """Setting and result of the publication, in words."""
    task: Literal["parity", "lookup", "3sum"]
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the task; hints are added for the arms that learn them."""
    sizes: dict[str, int]
    """Records: ``train``, ``validation``, ``test``."""
    model: dict[str, Any]
    """Settings of ``pretrain`` for the model, whose positions and vocabulary follow from the task."""
    finetune: dict[str, Any]
    """Settings of ``finetune`` for all arms, and ``preset``."""
    chance: float
    """Score of guessing."""
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    differences: tuple[tuple[str, str], ...] = ()
    """Pairs of arms to compare."""
    deviations: tuple[str, ...] = ()
    """What differs from the publication."""

    @property
    def generated(self) -> Parity | Lookup | ThreeSum:
        """The task with its parameters."""
        return TASK_PARAMETERS[self.task](**self.parameters)

    def num_pauses(self, arm: Arm) -> int:
        """Return the number of pauses of ``arm``."""
        if arm.num_pauses != PER_HINT:
            return arm.num_pauses
        return TASK_PARAMETERS[self.task](**{**self.parameters, "hints": True}).num_hints

    @property
    def positions(self) -> int:
        """Positions of the model: for the question, the pauses, and an answer with its end, rounded up to 16."""
        most = self.generated.question_length + max(map(self.num_pauses, self.arms)) + _ANSWER
        return -(-most // 16) * 16


_ANSWER = 8
"""Positions for an answer, of which evaluation decodes up to 4 tokens."""
