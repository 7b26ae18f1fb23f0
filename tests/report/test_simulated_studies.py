"""How often whole pages claim a difference of equal variants, and how often they find a real one.

A short version of ``python -m tests.report.simulated_studies``, with bounds that allow for the error of few studies.
"""

from __future__ import annotations

import pytest
from scipy import stats

from .simulated_studies import POWER, false_claims, found_differences, largest_plausible, theoretical_power


@pytest.mark.parametrize("scattered", [False, True], ids=["any study", "scattered seeds"])
def test_at_most_5_percent_of_pages_claim_a_difference_of_equal_variants(scattered: bool) -> None:
    found = false_claims(60, seed=1, scattered=scattered)
    assert sum(map(len, found.values())) == 60
    assert sum(map(sum, found.values())) <= largest_plausible(60)


@pytest.mark.parametrize(("seeds", "scatter", "effect"), [POWER[1], POWER[3]])
def test_real_differences_are_found_at_the_rate_of_welchs_test(seeds: int, scatter: float, effect: float) -> None:
    power = theoretical_power(effect, seeds=seeds, scatter=scatter)
    studies = 60
    found = found_differences(studies, 1, effect, seeds=seeds, scatter=scatter, items=600)
    assert stats.binom.ppf(0.001, studies, power) <= found <= stats.binom.ppf(0.999, studies, power)


def test_the_bound_for_few_studies_is_exceeded_by_a_rate_of_20_percent() -> None:
    assert largest_plausible(60) < 0.2 * 60
    assert largest_plausible(1000) < 0.075 * 1000
