"""The exact test over items, and Holm's correction."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pause_megatron.report.paired_tests import ALPHA, MOST_EXACT, holm, sign_flip_p_value, smallest_p_value


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(5, 0), (0, 5), (7, 1), (3, 3), (40, 20), (120, 70)])
def test_one_run_of_each_gives_mcnemars_exact_test(only_ours: int, only_theirs: int) -> None:
    differences = np.array([1.0] * only_ours + [-1.0] * only_theirs + [0.0] * 30)
    expected = stats.binomtest(only_ours, only_ours + only_theirs).pvalue
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_graded_differences_give_the_share_of_signs_with_as_large_a_sum() -> None:
    differences = np.array([0.5, -0.25, 1.0, 0.75, 0.1, 0.0, 0.35])
    changed = differences[differences != 0]
    sums = [abs(sum(signs * abs(changed))) for signs in map(np.array, itertools.product((-1, 1), repeat=len(changed)))]
    expected = np.mean(np.array(sums) >= abs(changed.sum()) - 1e-9)
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_no_item_that_differs_is_no_evidence() -> None:
    assert sign_flip_p_value(np.zeros(20)) == 1.0
    assert sign_flip_p_value(np.array([1 / 3 + 1 / 3 - 2 / 3] * 20)) == 1.0


def test_many_items_give_nearly_the_exact_test() -> None:
    for ours in (120, 140):
        differences = np.array([1.0] * ours + [-1.0] * (MOST_EXACT + 21 - ours))
        assert sign_flip_p_value(differences) == pytest.approx(stats.binomtest(ours, len(differences)).pvalue, rel=0.25)


def test_the_smallest_p_is_that_of_items_that_all_differ() -> None:
    for items in (1, 5, 12):
        assert smallest_p_value(items) == pytest.approx(sign_flip_p_value(np.ones(items)))


def test_holm_rejects_from_the_smallest_p_on() -> None:
    """The example of Holm's paper's procedure: 0.01 <= 0.05/4, 0.015 <= 0.05/3, 0.03 > 0.05/2."""
    found = holm([0.03, 0.01, 0.04, 0.015])
    assert [one.rejected for one in found] == [False, True, False, True]
    assert [one.p_value for one in found] == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert [one.alpha for one in found] == pytest.approx([ALPHA / 2, ALPHA / 4, ALPHA / 2, ALPHA / 3])
    assert holm([]) == []
    assert [one.rejected for one in holm([0.04])] == [True]


def test_holm_keeps_the_rate_of_any_false_rejection() -> None:
    generator = np.random.default_rng(2)
    studies = [any(one.rejected for one in holm(generator.random(9).tolist())) for _ in range(1000)]
    assert 25 <= sum(studies) <= 75  # 49 expected
