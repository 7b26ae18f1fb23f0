"""Content of the definition of an experiment on text: models that continue from one trained model, with pauses."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pause_megatron.config.preprocess import InsertionConfig


@dataclass(frozen=True, kw_only=True)
class TextArm:
    """One arm of an experiment on text."""

    name: str
    num_pauses: int
    """Pauses after each token, in training and on held-out text."""
    pause_positions: Literal["shift", "shared"] = "shift"
    """Position indices of the pauses, as in ``pretrain --pause-positions``."""
    distinct: bool = False
    """Whether the pauses after a token are ``<pause1>``, ``<pause2>`` and so on; otherwise all are ``<pause>``."""
    published: str
    """The published result of this arm, in words."""

    @property
    def key(self) -> str:
        """Name of its runs, such as "every2-shared"."""
        shared = "-shared" if self.pause_positions == "shared" else ""
        return f"{self.dataset}{shared}"

    @property
    def dataset(self) -> str:
        """Folder of its data, such as "none", "every1" or "every2-distinct"."""
        if not self.num_pauses:
            return "none"
        return f"every{self.num_pauses}{'-distinct' if self.distinct else ''}"


@dataclass(frozen=True, kw_only=True)
class TextExperiment:
    """A definition ``reproductions/NAME.yaml`` of the kind "text".

    A model is trained without pauses. Every arm continues from it with its own pauses, on as many real tokens.
    """

    kind: Literal["text"]
    title: str
    source: str
    """Publications, with their arXiv numbers."""
    published: str
    """Setting and result of the publications, in words."""
    tokenizer: dict[str, Any]
    """Settings of ``tokenizer``, which is trained on the training text."""
    real_tokens: int
    """Real tokens of a training sequence; pauses are in addition."""
    model: dict[str, Any]
    """Settings of ``pretrain`` for the model, whose positions follow from the arms."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of ``pretrain`` for all trainings."""
    plain: dict[str, Any]
    """Settings of ``pretrain`` for the model without pauses: at least ``train_iters``."""
    continued: dict[str, Any]
    """Settings of ``pretrain`` for all arms: at least ``train_iters``."""
    seeds: tuple[int, ...]
    """Seeds of the order of the data of the arms."""
    arms: tuple[TextArm, ...]
    differences: tuple[tuple[str, str], ...] = ()
    """Pairs of arms to compare."""
    meaning: str
    """What the result does and does not say."""
    deviations: tuple[str, ...] = ()
    """What differs from the publications."""

    @property
    def positions(self) -> int:
        """Positions of the model: those of the longest sequence."""
        return self.real_tokens * (1 + max(arm.num_pauses for arm in self.arms))

    @property
    def distinct_pauses(self) -> int:
        """Number of distinct pauses that the arms need; 0 if none has them."""
        return max((arm.num_pauses for arm in self.arms if arm.distinct), default=0)

    def insertion(self, arm: TextArm) -> InsertionConfig:
        """Return the pauses in the data of ``arm``."""
        if not arm.num_pauses:
            return InsertionConfig(pauses="none", seq_length=self.real_tokens)
        length = self.real_tokens * (1 + arm.num_pauses)
        return InsertionConfig(pauses="every", pauses_per_token=arm.num_pauses, seq_length=length)

    def datasets(self, *, distinct: bool) -> Iterator[tuple[str, InsertionConfig]]:
        """Yield name and pauses of each dataset of the arms with or without distinct pauses."""
        found = {arm.dataset: self.insertion(arm) for arm in self.arms if arm.distinct == distinct}
        if not distinct:  # the plain model also needs the data without pauses
            found = {"none": InsertionConfig(pauses="none", seq_length=self.real_tokens), **found}
        yield from found.items()
