"""Intervals of a share and of a mean over few runs."""

from __future__ import annotations

import pytest
from scipy import stats

from pause_megatron.intervals import mean_interval, wilson_interval


@pytest.mark.parametrize(("right", "items"), [(0, 20), (1, 20), (7, 20), (20, 20), (499, 500)])
def test_interval_of_a_share_is_wilsons(right: int, items: int) -> None:
    expected = stats.binomtest(right, items).proportion_ci(method="wilson")
    assert wilson_interval(right / items, items) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_interval_of_a_mean_is_students() -> None:
    values = [0.52, 0.47, 0.55]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx((low, high), abs=1e-9)
    assert mean_interval([1.0, 1.0]) is None
    assert mean_interval([0.5]) is None
