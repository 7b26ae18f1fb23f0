"""95 % intervals: of a share of right answers, and of a mean over few independent runs."""

import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95
"""Confidence level of an interval, before a correction for several comparisons."""
NORMAL_QUANTILE = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)  # 1.96


def wilson_interval(share: float, number: float) -> tuple[float, float]:
    """95 % interval of a ``share`` of ``number`` items (Wilson 1927), which holds at 0 and 1 too.

    ``number`` need not be whole: fewer items than there are stand for a larger variance (Korn and Graubard 1998).
    """
    square = NORMAL_QUANTILE**2
    center = (share + square / (2 * number)) / (1 + square / number)
    spread = math.sqrt(share * (1 - share) / number + square / (4 * number**2))
    margin = NORMAL_QUANTILE * spread / (1 + square / number)
    low, high = center - margin, center + margin
    return (0.0 if share == 0 else max(0.0, low)), (1.0 if share == 1 else min(1.0, high))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of independent ``values`` by Student's t.

    None for fewer than two values, and for equal ones: a few equal values do not tell how much others would scatter.
    """
    if len(values) < 2 or math.isclose(min(values), max(values), rel_tol=0, abs_tol=1e-9):
        return None
    from scipy.special import stdtrit  # slow to import

    mean = statistics.fmean(values)
    margin = statistics.stdev(values) / math.sqrt(len(values)) * float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    return mean - margin, mean + margin
