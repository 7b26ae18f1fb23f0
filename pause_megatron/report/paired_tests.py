"""Tests of paired scores: an exact test over test items, and the correction for several comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from pause_megatron.intervals import LEVEL
from pause_megatron.report.uncertainty import Scores

ALPHA = 1 - LEVEL  # largest probability of a false claim on a page, whatever the number of comparisons
STEPS = 200  # magnitudes that the exact test tells apart; it is exact for the rounded ones
MOST_EXACT = 200  # items that differ, up to which every choice of signs counts; the normal approximation for more


def sign_flip_p_value(differences: Scores) -> float:
    """Two-sided p of "each item's difference could as well have the other sign" (Fisher 1935), one item per value.

    For two runs that are right or wrong it is McNemar's exact test. It holds for any score and any number of items, for
    example 0 of 20. 1.0 if no item differs.
    """
    changed = differences[np.abs(differences) > 1e-12]
    if not len(changed):
        return 1.0
    if len(changed) > MOST_EXACT:
        return float(2 * ndtr(-abs(changed.sum()) / np.sqrt((changed**2).sum())))
    sizes = np.maximum(1, np.rint(np.abs(changed) / np.abs(changed).max() * STEPS)).astype(np.int64)
    observed = abs(int((np.sign(changed) * sizes).sum()))
    sizes //= (divisor := int(np.gcd.reduce(sizes)))
    # probability of each sum of signed sizes, from -total to total
    total = int(sizes.sum())
    probability = np.zeros(2 * total + 1)
    probability[total] = 1.0
    for size in sizes:
        probability = (np.roll(probability, size) + np.roll(probability, -size)) / 2
    sums = np.abs(np.arange(-total, total + 1))
    return min(1.0, float(probability[sums >= observed // divisor].sum()))


def smallest_p_value(items: int) -> float:
    """p of :func:`sign_flip_p_value` if all of ``items`` differ, equally and in one direction."""
    return min(1.0, 2.0 ** (1 - items))


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """Outcome of one of several tests after Holm's correction."""

    p_value: float
    """Smallest level of the whole family at which this test rejects."""
    alpha: float
    """Level that this test had to meet; the interval for it misses the true value with this probability."""
    rejected: bool


def holm(p_values: Sequence[float]) -> list[Corrected]:
    """Correct tests for their number (Holm 1979): with probability 95 %, no true null hypothesis is rejected."""
    found: dict[int, Corrected] = {}
    adjusted, rejecting, alpha = 0.0, True, ALPHA
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        left = len(p_values) - rank
        adjusted = min(1.0, max(adjusted, left * p_values[index]))
        if rejecting:
            alpha = ALPHA / left
            rejecting = p_values[index] <= alpha
        found[index] = Corrected(p_value=adjusted, alpha=alpha, rejected=rejecting)
    return [found[index] for index in range(len(p_values))]
