"""Standard errors, Student's t and the paired bootstrap."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import numpy as np
import pytest

from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.report.uncertainty import Bootstrap, Uncertainty

from .inputs import evaluation, grouped, with_scores


def test_a_margin_has_more_standard_errors_with_few_degrees_of_freedom() -> None:
    assert Uncertainty(stderr=1.0).margin == pytest.approx(1.960, abs=1e-3)
    assert Uncertainty(stderr=1.0, freedom=4).margin == pytest.approx(2.776, abs=1e-3)


def test_degrees_of_freedom_are_those_of_the_largest_error() -> None:
    items, seeds = Uncertainty(stderr=0.03), Uncertainty(stderr=0.001, freedom=1)
    together = Uncertainty.of(items, seeds, None)
    assert together is not None
    assert together.freedom > 1000
    together = Uncertainty.of(Uncertainty(stderr=0.001), Uncertainty(stderr=0.03, freedom=2))
    assert together is not None
    assert together.freedom == pytest.approx(2, abs=0.01)
    assert Uncertainty.of(None) is None


def result(variant: str, scores: list[int], seed: int = 1) -> EvaluationRecord:
    return with_scores(evaluation(variant=variant, seed=seed), [float(score) for score in scores])


def resampled(*records: EvaluationRecord) -> Bootstrap | None:
    """The bootstrap of the other variant of ``records`` against StdPT_StdFT."""
    (task,) = grouped(*records)
    ((measurement, baseline, _),) = task.comparisons
    return measurement.bootstrap(baseline)


def correlated(share: float, changed: float, items: int, seed: int) -> tuple[list[int], list[int]]:
    """Answers of two variants; the second corrects a share ``changed`` of the items, and they agree on the rest."""
    generator = random.Random(seed)
    first = [int(generator.random() < share) for _ in range(items)]
    return first, [1 if generator.random() < changed else score for score in first]


def test_both_variants_are_resampled_on_the_same_items() -> None:
    first, second = correlated(0.5, 0.1, 400, seed=3)
    found = resampled(result("stdpt_stdft", first), result("pausept_pauseft", second))
    assert found is not None
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean, stderr = statistics.fmean(differences), statistics.stdev(differences) / 20
    assert found.over_items == pytest.approx((mean - 1.96 * stderr, mean + 1.96 * stderr), abs=0.006)
    assert stderr < 0.015  # unpaired answers would have 0.035
    assert found.p_value < 0.002


def test_equal_variants_differ_significantly_at_the_nominal_rate() -> None:
    p_values = []
    for trial in range(60):
        generator = random.Random(trial)
        one, two = ([int(generator.random() < 0.4) for _ in range(80)] for _ in range(2))
        found = resampled(result("stdpt_stdft", one), result("pausept_pauseft", two))
        assert found is not None
        p_values.append(found.p_value)
    assert sum(p < 0.05 for p in p_values) <= 9  # 3 expected; more than 9 with a probability of 0.001
    assert 0.3 < statistics.fmean(p_values) < 0.7


def test_scattered_seeds_widen_the_interval() -> None:
    generator = np.random.default_rng(5)
    base = [list((generator.random(200) < 0.5).astype(int)) for _ in range(3)]
    steady = [list((generator.random(200) < 0.6).astype(int)) for _ in range(3)]
    scattered = [list((generator.random(200) < share).astype(int)) for share in (0.3, 0.6, 0.9)]

    def intervals(others: list[list[int]]) -> Bootstrap:
        records = [result("stdpt_stdft", scores, seed) for seed, scores in enumerate(base)]
        records += [result("pausept_pauseft", scores, seed) for seed, scores in enumerate(others)]
        found = resampled(*records)
        assert found is not None
        assert found.over_items_and_seeds is not None
        return found

    calm, wild = intervals(steady), intervals(scattered)
    assert width(calm.over_items_and_seeds) < 1.6 * width(calm.over_items)
    assert width(wild.over_items_and_seeds) > 2.5 * width(wild.over_items)
    assert wild.p_value > calm.p_value


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_a_single_seed_has_no_interval_over_seeds() -> None:
    found = resampled(result("stdpt_stdft", [1, 0] * 20), result("pausept_pauseft", [1, 1] * 20))
    assert found is not None
    assert found.over_items_and_seeds is None


def test_results_on_different_items_are_not_resampled() -> None:
    other = result("pausept_pauseft", [1, 0, 1, 0])
    other = replace(other, samples=(replace(other.samples[0], prompt="Another?"), *other.samples[1:]))
    assert resampled(result("stdpt_stdft", [1, 0, 1, 0]), other) is None
