from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pause_megatron.report.bootstrap import Bootstrap, bootstrap
from pause_megatron.report.collect import read_evaluation
from pause_megatron.report.compare import compare
from pause_megatron.report.comparisons import significance_table

from .inputs import evaluation, write_evaluation


def result(variant: str, scores: list[int], seed: int = 1) -> dict[str, Any]:
    samples = [
        {"prompt": f"item {place}", "pauses": 0, "output": "", "target": "", "correct": float(score)}
        for place, score in enumerate(scores)
    ]
    share = statistics.fmean(scores)
    return evaluation(variant=variant, value=share, samples=samples, num_samples=len(scores), seed=seed)


def resampled(folder: Path, *results: dict[str, Any]) -> Bootstrap | None:
    """The bootstrap of the other variant of ``results`` against StdPT_StdFT."""
    paths = [write_evaluation(folder, str(number), values) for number, values in enumerate(results)]
    (task,) = compare(read_evaluation(path) for path in paths)
    ((cell, baseline, _),) = task.compared
    return bootstrap(cell, baseline)


def correlated(share: float, changed: float, items: int, seed: int) -> tuple[list[int], list[int]]:
    """Answers of two variants that agree but for a share ``changed`` of the items, which the second answers rightly."""
    generator = random.Random(seed)
    first = [int(generator.random() < share) for _ in range(items)]
    return first, [1 if generator.random() < changed else score for score in first]


def test_items_are_drawn_in_pairs(tmp_path: Path) -> None:
    first, second = correlated(0.5, 0.1, 400, seed=3)
    found = resampled(tmp_path, result("stdpt_stdft", first), result("pausept_pauseft", second))
    assert found is not None
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean, stderr = statistics.fmean(differences), statistics.stdev(differences) / 20
    assert found.over_items == pytest.approx((mean - 1.96 * stderr, mean + 1.96 * stderr), abs=0.006)
    assert stderr < 0.015  # of unpaired answers it would be 0.035
    assert found.p_value < 0.002


def test_equal_variants_differ_significantly_no_more_often_than_they_should(tmp_path: Path) -> None:
    p_values = []
    for trial in range(60):
        generator = random.Random(trial)
        one, two = ([int(generator.random() < 0.4) for _ in range(80)] for _ in range(2))
        found = resampled(tmp_path, result("stdpt_stdft", one), result("pausept_pauseft", two))
        assert found is not None
        p_values.append(found.p_value)
    assert sum(p < 0.05 for p in p_values) <= 9  # 3 expected; more than 9 with a probability of 0.001
    assert 0.3 < statistics.fmean(p_values) < 0.7


def test_seeds_that_scatter_widen_the_interval(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    base = [list((generator.random(200) < 0.5).astype(int)) for _ in range(3)]
    steady = [list((generator.random(200) < 0.6).astype(int)) for _ in range(3)]
    scattered = [list((generator.random(200) < share).astype(int)) for share in (0.3, 0.6, 0.9)]

    def intervals(others: list[list[int]]) -> Bootstrap:
        results = [result("stdpt_stdft", scores, seed) for seed, scores in enumerate(base)]
        results += [result("pausept_pauseft", scores, seed) for seed, scores in enumerate(others)]
        found = resampled(tmp_path, *results)
        assert found is not None
        assert found.over_both is not None
        return found

    calm, wild = intervals(steady), intervals(scattered)
    assert width(calm.over_both) < 1.6 * width(calm.over_items)
    assert width(wild.over_both) > 2.5 * width(wild.over_items)
    assert wild.p_value > calm.p_value


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_a_single_seed_leaves_the_scatter_of_finetuning_out(tmp_path: Path) -> None:
    found = resampled(tmp_path, result("stdpt_stdft", [1, 0] * 20), result("pausept_pauseft", [1, 1] * 20))
    assert found is not None
    assert found.over_both is None


def test_other_items_are_not_resampled_in_pairs(tmp_path: Path) -> None:
    other = result("pausept_pauseft", [1, 0, 1, 0])
    other["samples"][0]["prompt"] = "another"
    assert resampled(tmp_path, result("stdpt_stdft", [1, 0, 1, 0]), other) is None


def test_the_table_says_what_cannot_be_resampled(tmp_path: Path) -> None:
    first, second = correlated(0.5, 0.2, 100, seed=1)
    values = [
        result("stdpt_stdft", first),
        result("pausept_pauseft", second),
        evaluation(variant="pausept_stdft", value=0.4),
    ]
    paths = [write_evaluation(tmp_path, str(number), one) for number, one in enumerate(values)]
    table = significance_table(compare(read_evaluation(path) for path in paths))
    assert table is not None
    texts = {row[0].text: [entry.text for entry in row[3:]] for row in table.rows}
    assert texts["PausePT_StdFT"] == ["–"] * 3  # noqa: RUF001
    low, _, high = texts["PausePT_PauseFT"][0].partition(" to ")
    assert (low[0], high[0]) == ("+", "+")
    assert texts["PausePT_PauseFT"][1:] == ["–", "<0.002"]  # noqa: RUF001
