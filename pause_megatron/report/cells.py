"""One measurement of a report: the results of one setting over its finetuning seeds, and the difference of two.

The statistics stand here; ``compare`` sorts results into cells.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from pause_megatron.report.records import Evaluation

VARIANTS = ("stdpt_stdft", "stdpt_pauseft", "pausept_stdft", "pausept_pauseft")
"""The paper's four variants; the first is what the others are compared with."""
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

    @property
    def is_matched(self) -> bool:
        """Whether inference pauses as often as finetuning did: M_inf = M_ft."""
        return self.num_pauses_inf == (self.num_pauses_ft or 0)

    @property
    def order(self) -> tuple[int, str, int, int, str]:
        """Sorts settings of a task: by :data:`MODELS`, then by M_ft and M_inf."""
        place = MODELS.index(self.model) if self.model in MODELS else len(MODELS)
        return place, self.model, self.num_pauses_ft or 0, self.num_pauses_inf, self.prefix_attention


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

    @property
    def item_scores(self) -> dict[tuple[int, str], float] | None:
        """Each test item's score, a mean over seeds, by place and prompt; None unless every result lists all items."""
        scores: dict[tuple[int, str], list[float]] = {}
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
        if any(len(found) != self.seeds for found in scores.values()):
            return None
        return {item: statistics.fmean(found) for item, found in scores.items()}

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


def _paired_error(
    scores: dict[tuple[int, str], float] | None, others: dict[tuple[int, str], float] | None
) -> float | None:
    """Standard error of the mean difference of two variants on the same items; None where the items differ."""
    if scores is None or others is None or scores.keys() != others.keys() or len(scores) < 2:
        return None
    return statistics.stdev(scores[item] - others[item] for item in scores) / math.sqrt(len(scores))
