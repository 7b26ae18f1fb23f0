"""One measurement of a report: the results of one setting over its finetuning seeds, and the difference of two.

The statistics stand here; ``compare`` sorts results into cells.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from functools import cached_property

from pause_megatron.report.records import Evaluation

VARIANTS = ("stdpt_stdft", "stdpt_pauseft", "pausept_stdft", "pausept_pauseft")
"""The paper's four variants; the first is what the others are compared with."""
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
class Difference:
    """A cell's mean minus StdPT_StdFT's, in the metric's unit."""

    value: float
    stderr: float | None

    @property
    def is_distinguishable(self) -> bool:
        """Whether it is larger than two standard errors; never so where no standard error is known."""
        return self.stderr is not None and abs(self.value) > 2 * self.stderr


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
    def item_error(self) -> float | None:
        """Standard error from the choice of test items; None where a result does not state its own.

        All seeds answer the same items, so it does not shrink with their number.
        """
        errors = [evaluation.primary.stderr for evaluation in self.evaluations]
        stated = [error for error in errors if error is not None]
        return math.sqrt(statistics.fmean(error**2 for error in stated)) if len(stated) == len(errors) else None

    @property
    def seed_error(self) -> float | None:
        """Standard error from the randomness of finetuning; None for a single seed."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.seeds)

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean, from test items and from finetuning as far as each is known.

        The part of the seeds' scatter that is due to items counts twice: the error is, if anything, stated too large.
        """
        return _combined(self.item_error, self.seed_error)

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

    def minus(self, baseline: Cell) -> Difference:
        """The difference of the means.

        Where both list the same test items, its error is that of the items' differences: what is hard for one variant
        is often hard for the other. Otherwise the two are taken as independent.
        """
        items = _paired_error(self.item_scores, baseline.item_scores)
        if items is not None:
            stderr = _combined(items, self.seed_error, baseline.seed_error)
        elif self.stderr is not None and baseline.stderr is not None:
            stderr = _combined(self.stderr, baseline.stderr)
        else:
            stderr = None
        return Difference(value=self.mean - baseline.mean, stderr=stderr)


def _combined(*errors: float | None) -> float | None:
    known = [error for error in errors if error is not None]
    return math.hypot(*known) if known else None


def _paired_error(scores: dict[Item, float] | None, others: dict[Item, float] | None) -> float | None:
    """Standard error of the mean difference of two variants on the same items; None where the items differ."""
    if scores is None or others is None or scores.keys() != others.keys() or len(scores) < 2:
        return None
    return statistics.stdev(scores[item] - others[item] for item in scores) / math.sqrt(len(scores))
