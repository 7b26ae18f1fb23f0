"""Statistics of a score and of a difference: standard errors from test items and seeds, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from pause_megatron.intervals import LEVEL, NORMAL_QUANTILE, combined_error, standard_error, wilson_interval

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """A standard error and its degrees of freedom."""

    stderr: float
    freedom: float = math.inf
    """Degrees of freedom; few if the scatter of few seeds dominates the error."""

    @property
    def margin(self) -> float:
        """Half width of the 95 % interval by Student's t: 1.96 standard errors, more with few degrees of freedom."""
        return self.margin_at(1 - LEVEL)

    def margin_at(self, alpha: float) -> float:
        """Half width of the interval that misses the true value with probability ``alpha``."""
        return self.stderr * float(stdtrit(self.freedom, 1 - alpha / 2))

    @staticmethod
    def of(*components: Uncertainty | None) -> Uncertainty | None:
        """Combine independent components (Welch 1947, Satterthwaite 1946); None if no component is known."""
        known = [component for component in components if component is not None]
        if not known:
            return None
        stderr, freedom = combined_error([(component.stderr, component.freedom) for component in known])
        return Uncertainty(stderr=stderr, freedom=freedom)

    @staticmethod
    def of_mean(values: Sequence[float]) -> Uncertainty | None:
        """Uncertainty of the mean of independent values; None for fewer than two."""
        error = standard_error(values)
        return None if error is None else Uncertainty(stderr=error, freedom=len(values) - 1)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two means, in the unit of the metric."""

    value: float
    uncertainty: Uncertainty | None

    @property
    def stderr(self) -> float | None:
        """Standard error; None if it is unknown."""
        return None if self.uncertainty is None else self.uncertainty.stderr

    @property
    def p_value(self) -> float | None:
        """Two-sided p of Student's t for "no difference"; None if no standard error is known."""
        if self.uncertainty is None:
            return None
        if not self.uncertainty.stderr:
            return 0.0 if self.value else 1.0
        return float(2 * stdtr(self.uncertainty.freedom, -abs(self.value) / self.uncertainty.stderr))

    def interval_at(self, alpha: float) -> tuple[float, float] | None:
        """Interval that misses the true difference with probability ``alpha``; None without a standard error."""
        if self.uncertainty is None:
            return None
        margin = self.uncertainty.margin_at(alpha)
        return self.value - margin, self.value + margin


def crossed_error(samples: Sequence[Scores], differences: Scores) -> Uncertainty:
    """Standard error of the mean of ``differences``, one for each test item, over new items and new finetuning runs.

    ``samples`` are the independent sets of runs that the differences are made of, each [seeds, items] over the same
    items: two variants, or one set of runs with other pauses. Items and seeds are crossed random effects: the variance
    is that of the seeds' means plus that of the items' means minus the residual, which both contain (Clark 1973, "The
    language-as-fixed-effect fallacy"), and never below either. The variance of the items counts two more items, one
    with a difference of 1 and one of -1 (Bonett and Price 2012): it is not 0 if no item differs.

    The degrees of freedom are Welch's for the seeds, since few seeds tell little about their scatter. If some set has a
    single run, the error covers the items only.
    """
    items = len(differences)
    mean = float(differences.sum()) / (items + 2)
    of_items = ((float((differences**2).sum()) + 2) / (items + 2) - mean**2) / (items + 2)
    if any(len(runs) == 1 for runs in samples):
        return Uncertainty(stderr=math.sqrt(of_items), freedom=items + 1)
    seeds = Uncertainty.of(*(Uncertainty.of_mean(runs.mean(axis=1).tolist()) for runs in samples))
    assert seeds is not None
    freedom = seeds.freedom if seeds.stderr else sum(len(runs) - 1 for runs in samples)
    of_seeds = seeds.stderr**2
    residual = sum(_residual(runs) for runs in samples)
    variance = max(of_items, of_seeds, of_items + of_seeds - residual)
    return Uncertainty(stderr=math.sqrt(variance), freedom=min(freedom, items + 1))


def _residual(runs: Scores) -> float:
    """Variance of the mean of ``runs``, [seeds, items], from what neither the item nor the seed explains."""
    seeds, items = runs.shape
    rest = runs - runs.mean(axis=0) - runs.mean(axis=1, keepdims=True) + runs.mean()
    return float((rest**2).sum() / max(1, (seeds - 1) * (items - 1)) / (seeds * items))


def share_interval(share: float, uncertainty: Uncertainty | None, items: int) -> tuple[float, float]:
    """Wilson's interval of a mean score from 0 to 1, at least as wide as that of ``items`` right and wrong answers.

    A larger ``uncertainty``, such as from the scatter of seeds, counts as fewer items.
    """
    number = float(items)
    if uncertainty is not None and uncertainty.stderr and 0 < share < 1:
        number = min(number, share * (1 - share) * (NORMAL_QUANTILE / uncertainty.margin) ** 2)
    return wilson_interval(share, number)


def without_zero(error: Uncertainty, items: int) -> Uncertainty:
    """Return ``error``, or 1/(items + 2) in place of 0: that all items score the same is no proof of no error."""
    return error if error.stderr else replace(error, stderr=1 / (items + 2))
