"""Configuration of ``pause-megatron generate-task``: the generated tasks and their parameters."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError

GeneratedTask = Literal["parity", "lookup", "3sum"]
Counts = Literal["uniform", "binomial"]
"""Distribution of the number of ones in a bit string: uniform, or that of uniform bits."""

_LETTERS = 26
"""Names of pairs and vectors."""
_MOST_TRIPLES = 3.0
"""Triples that sum to zero in a random question, on average. With more, nearly every question has one."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Is the number of ones in a bit string odd?"""

    bits: int = 16
    train_counts: Counts = "uniform"
    test_counts: Counts = "binomial"
    hints: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, bits=self.bits)

    @property
    def num_hints(self) -> int:
        """Hints of each record."""
        return self.bits if self.hints else 0

    @property
    def question_length(self) -> int:
        """Tokens of a question, one for each character."""
        return self.bits + 1


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Which digit followed this letter?"""

    pairs: int = 8
    num_hints: ClassVar[int] = 0

    def __post_init__(self) -> None:
        require_at_least(1, pairs=self.pairs)
        if self.pairs > _LETTERS:
            raise UserError(f"--pairs {self.pairs}: there are {_LETTERS} letters; give at most {_LETTERS}")

    @property
    def question_length(self) -> int:
        """Tokens of a question, one for each character."""
        return 2 * self.pairs + 3


@dataclass(frozen=True, kw_only=True)
class ThreeSum:
    """Do three of these vectors of digits add up to zero?"""

    vectors: int = 6
    digits: int = 2
    modulus: int = 10
    hints: bool = False

    def __post_init__(self) -> None:
        require_at_least(3, vectors=self.vectors)
        require_at_least(1, digits=self.digits)
        require_at_least(2, modulus=self.modulus)
        if self.vectors > _LETTERS:
            raise UserError(f"--vectors {self.vectors}: there are {_LETTERS} letters; give at most {_LETTERS}")
        if self.modulus > 10:
            raise UserError(f"--modulus {self.modulus}: an entry is one digit; give at most 10")
        triples = self.vectors * (self.vectors - 1) * (self.vectors - 2) / 6 / self.modulus**self.digits
        if triples > _MOST_TRIPLES:
            raise UserError(
                f"--vectors {self.vectors}: nearly every question has three that add up to zero ({triples:.1f} times on"
                " average); give fewer vectors, or more --digits"
            )

    @property
    def num_hints(self) -> int:
        """Hints of each record: one for each pair that a later vector can complete."""
        return (self.vectors - 1) * (self.vectors - 2) // 2 if self.hints else 0

    @property
    def question_length(self) -> int:
        """Tokens of a question, one for each character."""
        return self.vectors * (self.digits + 1) + 1


TASK_PARAMETERS: dict[str, type[Parity] | type[Lookup] | type[ThreeSum]] = {
    "parity": Parity,
    "lookup": Lookup,
    "3sum": ThreeSum,
}


@dataclass(frozen=True, kw_only=True)
class GenerateTaskConfig:
    """Write the records of a generated task: train.jsonl, validation.jsonl, test.jsonl, and generated_task.json with
    its parameters and seed.

    parity: is the number of ones in a bit string odd? lookup: which digit followed this letter? 3sum: do three of these
    vectors of digits add up to zero?

    For example: pause-megatron generate-task parity --bits 20 --hints --output tasks/parity
    """

    POSITIONAL: ClassVar[str] = "task"

    task: GeneratedTask
    """Name of the task."""
    output: Path
    """Folder to create; its name should be that of the task."""
    train: int = 50_000
    """Training records."""
    validation: int = 500
    """Validation records."""
    test: int = 1000
    """Test records."""
    seed: int = 0
    """Seed of all records."""
    hints: bool = False
    """Give each training record its hints, the labels at its pauses (parity: one for each bit; 3sum: one for each pair
    that a later vector can complete)."""
    bits: int | None = None
    """Bits of a question of parity (default: 16)."""
    train_counts: Counts | None = None
    """Number of ones in a training question of parity: uniform (default), or binomial, that of uniform bits."""
    test_counts: Counts | None = None
    """The same for validation and test (default: binomial)."""
    pairs: int | None = None
    """Pairs of a letter and a digit in a question of lookup (default: 8)."""
    vectors: int | None = None
    """Vectors in a question of 3sum (default: 6)."""
    digits: int | None = None
    """Digits of a vector of 3sum (default: 2)."""
    modulus: int | None = None
    """Modulus of the sums of 3sum, and number of different digits, at most 10 (default: 10)."""

    GROUPS: ClassVar[dict[str, str]] = {"task": "task and size", "hints": "parameters of the tasks"}

    def __post_init__(self) -> None:
        require_at_least(1, train=self.train, test=self.test)
        require_at_least(0, validation=self.validation, seed=self.seed)
        known = {field.name for field in fields(TASK_PARAMETERS[self.task])}
        for name, value in self._given().items():
            if name not in known:
                flag = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
                raise UserError(f"{flag}: is not a parameter of {self.task}; remove it")
        TASK_PARAMETERS[self.task](**self._given())

    def _given(self) -> dict[str, Any]:
        names = dict.fromkeys(field.name for kind in TASK_PARAMETERS.values() for field in fields(kind))
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that were given, for :func:`~pause_megatron.downstream.generated_tasks.write_task`."""
        return self._given()
