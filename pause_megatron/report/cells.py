"""One measurement of a report: the results of one setting over its finetuning seeds, and the difference of two.

The statistics stand here; ``compare`` sorts results into cells.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from functools import cached_property

from scipy.special import stdtrit

from pause_megatron.report.records import Evaluation

VARIANTS = ("stdpt_stdft", "stdpt_pauseft", "pausept_stdft", "pausept_pauseft")
"""The paper's four variants; the first is what the others are compared with."""
LEVEL = 0.95
"""Of all intervals, and so of what is called distinguishable."""
Item = tuple[int, str]
"""A test item: its place among those of the result, and its prompt."""
MODELS = (*VARIANTS, "stdpt", "pausept")
"""The order of a report's rows: the variants, then models that were not finetuned."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the results of one cell share; they differ in the finetuning seed alone."""

    task: str
    model: str
    num_pauses_ft: int | None
    num_pauses_inf: int
    prefix_attention: str
    fewest_pauses_ft: int | None = None
    """The smallest M_ft where it was drawn for each example; None where it was fixed."""
    placement_ft: str = "append"
    """Where the pauses stood in finetuning; "append" where there were none."""
    placement: str = "append"
    """Where the pauses stand at inference; as in finetuning where there are none."""
    filler: str | None = None
    """What stood in the place of the pauses at inference, if not the pause token."""

    @property
    def is_matched(self) -> bool:
        """Whether inference pauses as finetuning did: M_inf = M_ft, in the same place, and no fillers."""
        return self == self.finetuned

    @property
    def finetuned(self) -> Setting:
        """The same, paused at inference as in finetuning: what a setting with another M_inf or filler varies."""
        return replace(self, num_pauses_inf=self.num_pauses_ft or 0, placement=self.placement_ft, filler=None)

    @property
    def order(self) -> tuple[int, str, int, int, int, str, str, str, str]:
        """Sorts settings of a task: by :data:`MODELS`, then by M_ft and M_inf, then the rest."""
        place = MODELS.index(self.model) if self.model in MODELS else len(MODELS)
        fewest = -1 if self.fewest_pauses_ft is None else self.fewest_pauses_ft
        pauses = self.num_pauses_ft or 0, fewest, self.num_pauses_inf
        rest = self.placement_ft, self.placement, self.filler or "", self.prefix_attention
        return place, self.model, *pauses, *rest


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """A standard error, and how well it is known."""

    stderr: float
    freedom: float = math.inf
    """Degrees of freedom: few where the scatter of few seeds makes up most of it."""

    @property
    def margin(self) -> float:
        """Half of the 95 % interval, by Student's t: 1.96 standard errors, and more where few seeds stand behind it."""
        return self.stderr * float(stdtrit(self.freedom, (1 + LEVEL) / 2))

    @staticmethod
    def of(*parts: Uncertainty | None) -> Uncertainty | None:
        """Independent parts together (Welch 1947 and Satterthwaite 1946); None where no part is known."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        variance = sum(part.stderr**2 for part in known)
        spread = sum(part.stderr**4 / part.freedom for part in known)
        return Uncertainty(stderr=math.sqrt(variance), freedom=variance**2 / spread if spread else math.inf)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A cell's mean minus another's, in the metric's unit."""

    value: float
    uncertainty: Uncertainty | None

    @property
    def stderr(self) -> float | None:
        """Standard error; None where it is not known."""
        return None if self.uncertainty is None else self.uncertainty.stderr

    @property
    def is_distinguishable(self) -> bool:
        """Whether its 95 % interval leaves out zero; never so where no standard error is known."""
        return self.uncertainty is not None and abs(self.value) > self.uncertainty.margin


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting's results, one for each finetuning seed."""

    setting: Setting
    evaluations: tuple[Evaluation, ...]

    @property
    def seeds(self) -> int:
        """Number of finetuning runs."""
        return len(self.evaluations)

    @property
    def num_samples(self) -> int:
        """Test items of each evaluation (the fewest, should they differ)."""
        return min(evaluation.num_samples for evaluation in self.evaluations)

    @property
    def mean(self) -> float:
        """Mean of the primary metric over seeds."""
        return statistics.fmean(evaluation.primary.value for evaluation in self.evaluations)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        if self.seeds == 1:
            return None
        return statistics.stdev(evaluation.primary.value for evaluation in self.evaluations)

    @property
    def item_error(self) -> Uncertainty | None:
        """From the choice of test items; None where a result does not state its standard error.

        All seeds answer the same items, so it does not shrink with their number.
        """
        errors = [evaluation.primary.stderr for evaluation in self.evaluations]
        stated = [error for error in errors if error is not None]
        if len(stated) < len(errors):
            return None
        return Uncertainty(stderr=math.sqrt(statistics.fmean(error**2 for error in stated)))

    @property
    def seed_error(self) -> Uncertainty | None:
        """From the randomness of finetuning; None for a single seed."""
        return _uncertainty_of_mean([evaluation.primary.value for evaluation in self.evaluations])

    @property
    def uncertainty(self) -> Uncertainty | None:
        """Of the mean, from test items and from finetuning as far as each is known.

        The part of the seeds' scatter that is due to items counts twice: the error is, if anything, stated too large.
        """
        return Uncertainty.of(self.item_error, self.seed_error)

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean; None where none is known."""
        return None if self.uncertainty is None else self.uncertainty.stderr

    @cached_property
    def seed_scores(self) -> dict[Item, list[float]] | None:
        """Each test item's score by every seed; None unless every result lists all items, and the same."""
        scores: dict[Item, list[float]] = {}
        for evaluation in self.evaluations:
            listed = [sample.correct for sample in evaluation.samples]
            if (
                not listed
                or len(listed) != evaluation.num_samples
                or not math.isclose(statistics.fmean(listed), evaluation.primary.value, abs_tol=1e-6)
            ):
                return None
            for place, sample in enumerate(evaluation.samples):
                scores.setdefault((place, sample.prompt), []).append(sample.correct)
        return scores if all(len(found) == self.seeds for found in scores.values()) else None

    @cached_property
    def item_scores(self) -> dict[Item, float] | None:
        """Each test item's score, a mean over seeds; None where :attr:`seed_scores` is."""
        if self.seed_scores is None:
            return None
        return {item: statistics.fmean(found) for item, found in self.seed_scores.items()}

    def minus(self, other: Cell) -> Difference:
        """The difference of the means.

        Where both list the same test items, the items' part of its error is that of the items' differences: what is
        hard for one variant is often hard for the other. Where both are the same finetuned models, the seeds' part is
        that of the seeds' differences. Otherwise the two are taken as independent.
        """
        items = self._paired_items(other)
        seeds = self._paired_seeds(other) or Uncertainty.of(self.seed_error, other.seed_error)
        if items is None and self.uncertainty is not None and other.uncertainty is not None:
            items = Uncertainty.of(self.item_error, other.item_error)
        elif items is None:
            seeds = None
        return Difference(value=self.mean - other.mean, uncertainty=Uncertainty.of(items, seeds))

    def _paired_items(self, other: Cell) -> Uncertainty | None:
        """Of the difference over the same test items; None where the items are not the same."""
        ours, theirs = self.item_scores, other.item_scores
        if ours is None or theirs is None or ours.keys() != theirs.keys():
            return None
        spread = _uncertainty_of_mean([ours[item] - theirs[item] for item in ours])
        return None if spread is None else replace(spread, freedom=math.inf)

    def _paired_seeds(self, other: Cell) -> Uncertainty | None:
        """Of the difference over the same finetuned models; None where the models are not the same."""
        ours, theirs = ({one.seed: one.primary.value for one in cell.evaluations} for cell in (self, other))
        if self.setting.finetuned != other.setting.finetuned or ours.keys() != theirs.keys():
            return None
        return _uncertainty_of_mean([ours[seed] - theirs[seed] for seed in ours])


def _uncertainty_of_mean(values: list[float]) -> Uncertainty | None:
    """Of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    return Uncertainty(stderr=statistics.stdev(values) / math.sqrt(len(values)), freedom=len(values) - 1)
