"""Standard errors over items and seeds, Student's t, and the interval of a share."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from pause_megatron.intervals import wilson_interval
from pause_megatron.report.uncertainty import NORMAL_QUANTILE, Difference, Uncertainty, crossed_error, share_interval


def test_a_margin_has_more_standard_errors_with_few_degrees_of_freedom() -> None:
    assert Uncertainty(stderr=1.0).margin == pytest.approx(1.960, abs=1e-3)
    assert Uncertainty(stderr=1.0, freedom=4).margin == pytest.approx(2.776, abs=1e-3)
    assert Uncertainty(stderr=1.0, freedom=4).margin_at(0.01) == pytest.approx(4.604, abs=1e-3)


def test_degrees_of_freedom_are_those_of_the_largest_error() -> None:
    items, seeds = Uncertainty(stderr=0.03), Uncertainty(stderr=0.001, freedom=1)
    together = Uncertainty.of(items, seeds, None)
    assert together is not None
    assert together.freedom > 1000
    together = Uncertainty.of(Uncertainty(stderr=0.001), Uncertainty(stderr=0.03, freedom=2))
    assert together is not None
    assert together.freedom == pytest.approx(2, abs=0.01)
    assert Uncertainty.of(None) is None


def test_p_and_interval_of_a_difference_are_students() -> None:
    found = Difference(value=0.3, uncertainty=Uncertainty(stderr=0.1, freedom=4))
    assert found.p_value == pytest.approx(2 * stats.t.sf(3, 4))
    assert found.interval_at(0.05) == pytest.approx((0.3 - 0.2776, 0.3 + 0.2776), abs=1e-4)
    assert Difference(value=0.3, uncertainty=None).p_value is None
    assert Difference(value=0.3, uncertainty=None).interval_at(0.05) is None


def test_one_run_of_each_has_the_error_of_items_with_two_more() -> None:
    """Bonett and Price's variance: (n12 + n21 + 2)/(n + 2) minus the squared difference, over n + 2."""
    ours, theirs = np.array([[1.0] * 7 + [0.0] * 13]), np.array([[0.0] * 5 + [1.0] * 3 + [0.0] * 12])
    # 5 items only ours, 1 only theirs, of 20
    found = crossed_error([ours, theirs], (ours - theirs)[0])
    assert found.stderr == pytest.approx(math.sqrt(((5 + 1 + 2) / 22 - (4 / 22) ** 2) / 22))
    nothing = np.zeros((1, 20))
    found = crossed_error([nothing, nothing], nothing[0])
    assert found.stderr == pytest.approx(math.sqrt(2) / 22)
    assert found.margin > 0.12  # 0 of 20 against 0 of 20 says little


def test_scattered_seeds_give_welchs_test() -> None:
    """All items are alike, so that only seeds matter."""
    ours, theirs = (np.repeat(np.array([values]).T, 4000, axis=1) for values in ((0.4, 0.5, 0.7), (0.1, 0.2, 0.15)))
    found = Difference(value=0.3833333333, uncertainty=crossed_error([ours, theirs], ours.mean(0) - theirs.mean(0)))
    expected = stats.ttest_ind(ours[:, 0], theirs[:, 0], equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-3)
    assert found.uncertainty is not None
    assert found.uncertainty.freedom == pytest.approx(expected.df)


def test_errors_of_items_and_seeds_add_up_without_counting_the_residual_twice() -> None:
    """The true standard deviation over new items and new runs is known: components of 0.04, 0.02 and 0.02."""
    generator = np.random.default_rng(4)
    of_items, of_seeds, residual = 0.8, 0.04, 0.9
    items, seeds = 400, 5
    true = math.sqrt(of_items**2 / items + 2 * of_seeds**2 / seeds + 2 * residual**2 / (seeds * items))
    variances, means = [], []
    for _ in range(400):
        own = generator.normal(0, of_items, items)
        ours, theirs = (
            generator.normal(0, of_seeds, (seeds, 1)) + generator.normal(0, residual, (seeds, items)) for _ in range(2)
        )
        ours = ours + own
        variances.append(crossed_error([ours, theirs], ours.mean(0) - theirs.mean(0)).stderr ** 2)
        means.append(float(ours.mean() - theirs.mean()))
    assert statistics.pstdev(means) == pytest.approx(true, rel=0.15)
    assert true**2 * 0.95 < statistics.fmean(variances) < true**2 * 1.2


def test_seeds_without_scatter_leave_few_degrees_of_freedom() -> None:
    runs = np.ones((3, 50))
    assert crossed_error([runs, 0 * runs], runs[0]).freedom == 4
    assert crossed_error([runs], runs[0]).freedom == 2


def test_a_larger_error_widens_the_interval_of_a_share_and_a_smaller_one_does_not_narrow_it() -> None:
    plain = wilson_interval(0.4, 100)
    assert share_interval(0.4, None, 100) == plain
    assert share_interval(0.4, Uncertainty(stderr=0.001), 100) == plain
    low, high = share_interval(0.4, Uncertainty(stderr=0.1), 100)
    assert (high - low) / 2 == pytest.approx(NORMAL_QUANTILE * 0.1, rel=0.1)
    assert share_interval(0.0, Uncertainty(stderr=0.02), 20) == wilson_interval(0.0, 20)
