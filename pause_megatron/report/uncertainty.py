"""Statistics of a score and of a difference: standard errors, Student's t, and the paired bootstrap."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

LEVEL = 0.95  # confidence level of every interval; a difference is significant if its interval excludes zero
RESAMPLES = 2000
SEED = 1234
BLOCK_ELEMENTS = 2**22  # item counts drawn at a time (resamples times items), to bound memory

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
        return self.stderr * float(stdtrit(self.freedom, (1 + LEVEL) / 2))

    @staticmethod
    def of(*components: Uncertainty | None) -> Uncertainty | None:
        """Combine independent components (Welch 1947, Satterthwaite 1946); None if no component is known."""
        known = [component for component in components if component is not None]
        if not known:
            return None
        variance = sum(component.stderr**2 for component in known)
        spread = sum(component.stderr**4 / component.freedom for component in known)
        return Uncertainty(stderr=math.sqrt(variance), freedom=variance**2 / spread if spread else math.inf)

    @staticmethod
    def of_mean(values: Sequence[float]) -> Uncertainty | None:
        """Uncertainty of the mean of independent values; None for fewer than two."""
        if len(values) < 2:
            return None
        return Uncertainty(stderr=statistics.stdev(values) / math.sqrt(len(values)), freedom=len(values) - 1)


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
    def is_significant(self) -> bool:
        """Whether the 95 % interval excludes zero; False if no standard error is known."""
        return self.uncertainty is not None and abs(self.value) > self.uncertainty.margin


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Resampled difference of two means, in the unit of the metric."""

    over_items: tuple[float, float]
    """95 % interval over test items, for these finetuned models."""
    over_items_and_seeds: tuple[float, float] | None
    """95 % interval over test items and finetuning runs; None if either side has a single run. It is too narrow for few
    runs, for example for three."""
    p_value: float
    """Two-sided p of "no difference", over items and seeds if possible, else over items."""


def paired_bootstrap(scores: Scores, baseline: Scores) -> Bootstrap:
    """Resample the mean of ``scores`` minus that of ``baseline``, each [seeds, items] over the same items.

    Every resample draws the same items for both (Koehn 2004, aclanthology.org/W04-3250) and finetuning runs
    independently. The random numbers are the same in every call.
    """
    generator = np.random.default_rng(SEED)
    means, baseline_means = _draw_items(scores, baseline, generator)
    difference = means.mean(axis=0) - baseline_means.mean(axis=0)
    over_items = _interval(difference)
    if len(scores) == 1 or len(baseline) == 1:
        return Bootstrap(over_items=over_items, over_items_and_seeds=None, p_value=_p_value(difference))
    difference = _draw_seeds(means, generator) - _draw_seeds(baseline_means, generator)
    return Bootstrap(over_items=over_items, over_items_and_seeds=_interval(difference), p_value=_p_value(difference))


def _draw_items(scores: Scores, baseline: Scores, generator: np.random.Generator) -> tuple[Scores, Scores]:
    """Mean scores over resampled items, [seeds, resamples] each; resample i holds the same items in both."""
    items = scores.shape[1]
    block = max(1, BLOCK_ELEMENTS // items)
    blocks = []
    for start in range(0, RESAMPLES, block):
        # weights [resamples, items]: how often a resample contains each item, over the number of items
        weights = generator.multinomial(items, np.full(items, 1 / items), size=min(block, RESAMPLES - start)) / items
        blocks.append((scores @ weights.T, baseline @ weights.T))
    ours, theirs = zip(*blocks, strict=True)
    return np.concatenate(ours, axis=1), np.concatenate(theirs, axis=1)


def _draw_seeds(means: Scores, generator: np.random.Generator) -> Scores:
    """Mean over resampled seeds: [seeds, resamples] to [resamples], with new seeds in every resample."""
    seeds = len(means)
    drawn = generator.integers(seeds, size=(seeds, RESAMPLES))
    resampled: Scores = np.take_along_axis(means, drawn, axis=0).mean(axis=0)
    return resampled


def _interval(resampled: Scores) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(resampled: Scores) -> float:
    """Twice the share of resamples on the rarer side of zero; never 0, because the resamples are finite."""
    rarer = min(np.count_nonzero(resampled <= 0), np.count_nonzero(resampled >= 0))
    return min(1.0, 2 * (rarer + 1) / (RESAMPLES + 1))
