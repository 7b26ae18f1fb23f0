"""Standard errors and 95 % intervals: of a share of right answers, of a mean over few runs, of a paired difference."""

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
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    margin = student_margin(error, len(values) - 1)
    return mean - margin, mean + margin


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of independent ``values``; None for fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def error_over_blocks(differences: Sequence[float], targets: Sequence[int]) -> float | None:
    """Standard error of a mean difference of losses over other held-out text; None for fewer than two blocks.

    Losses within a block of text depend on each other, so the blocks are the sample: the error is that of a ratio of
    sums over blocks (Cochran 1977, section 6.4).

    Args:
        differences: difference of the mean losses of each block.
        targets: real targets of each block, the weights of the mean.
    """
    blocks = len(targets)
    if blocks < 2:
        return None
    weights = [number / sum(targets) for number in targets]
    mean = math.fsum(weight * value for weight, value in zip(weights, differences, strict=True))
    squares = ((weight * (value - mean)) ** 2 for weight, value in zip(weights, differences, strict=True))
    return math.sqrt(blocks / (blocks - 1) * math.fsum(squares))


def combined_error(errors: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Combine independent standard errors, each with its degrees of freedom (Welch 1947, Satterthwaite 1946)."""
    variance = sum(error**2 for error, _ in errors)
    spread = sum(error**4 / freedom for error, freedom in errors)
    return math.sqrt(variance), variance**2 / spread if spread else math.inf


def student_margin(error: float, freedom: float) -> float:
    """Half width of the 95 % interval of a value with a standard error, by Student's t."""
    from scipy.special import stdtrit  # slow to import

    return error * float(stdtrit(freedom, (1 + LEVEL) / 2))
