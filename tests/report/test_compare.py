from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.errors import UserError
from pause_megatron.report.cells import Difference, Uncertainty
from pause_megatron.report.collect import read_evaluation
from pause_megatron.report.compare import TaskResult, compare

from .inputs import evaluation, write_evaluation


def compared(folder: Path, *results: dict[str, Any]) -> tuple[TaskResult, ...]:
    paths = [write_evaluation(folder, str(number), values) for number, values in enumerate(results)]
    return compare(read_evaluation(path) for path in paths)


def test_a_single_seed_has_the_evaluations_own_standard_error(tmp_path: Path) -> None:
    (task,) = compared(tmp_path, evaluation(value=0.5, stderr=0.02))
    (cell,) = task.cells
    assert (cell.seeds, cell.mean, cell.deviation) == (1, 0.5, None)
    assert cell.stderr == pytest.approx(0.02)


def test_seeds_give_mean_deviation_and_an_error_of_both_kinds(tmp_path: Path) -> None:
    results = [evaluation(value=value, stderr=0.02, seed=seed) for seed, value in enumerate((0.4, 0.5, 0.6))]
    (task,) = compared(tmp_path, *results)
    (cell,) = task.cells
    assert (cell.seeds, cell.mean, cell.deviation) == (3, pytest.approx(0.5), pytest.approx(0.1))
    assert cell.stderr == pytest.approx(math.sqrt(0.02**2 + 0.1**2 / 3))


def test_a_difference_whose_interval_holds_zero_is_not_distinguishable(tmp_path: Path) -> None:
    baseline = evaluation(value=0.50, stderr=0.03)
    (task,) = compared(
        tmp_path,
        baseline,
        evaluation(variant="stdpt_pauseft", value=0.59, stderr=0.04),
        evaluation(variant="pausept_pauseft", value=0.61, stderr=0.04),
        evaluation(variant="pausept_stdft", value=0.39, stderr=0.04),
    )
    found = {cell.setting.model: difference for cell, _, difference in task.compared}
    assert {model: round(difference.value, 6) for model, difference in found.items()} == {
        "stdpt_pauseft": 0.09,
        "pausept_stdft": -0.11,
        "pausept_pauseft": 0.11,
    }
    assert all(difference.stderr == pytest.approx(0.05) for difference in found.values())
    assert [model for model, difference in found.items() if difference.is_distinguishable] == [
        "pausept_stdft",
        "pausept_pauseft",
    ]


def test_few_seeds_have_to_differ_by_more_standard_errors(tmp_path: Path) -> None:
    """Student's t: with three seeds each and no error of items, four degrees of freedom ask for 2.776 of them."""
    assert Uncertainty(stderr=1.0).margin == pytest.approx(1.960, abs=1e-3)
    assert Uncertainty(stderr=1.0, freedom=4).margin == pytest.approx(2.776, abs=1e-3)

    def difference(gap: float) -> Difference:
        seeds = {"stdpt_stdft": (0.4, 0.5, 0.6), "pausept_pauseft": (0.4 + gap, 0.5 + gap, 0.6 + gap)}
        results = [
            evaluation(variant=variant, value=value, stderr=0.0, seed=seed)
            for variant, values in seeds.items()
            for seed, value in enumerate(values)
        ]
        (task,) = compared(tmp_path, *results)
        ((_, _, found),) = task.compared
        return found

    one = difference(0.2)
    assert one.uncertainty is not None
    assert one.uncertainty.freedom == pytest.approx(4)
    assert one.stderr == pytest.approx(0.1 * (2 / 3) ** 0.5)
    assert not difference(0.22).is_distinguishable  # 2.7 standard errors
    assert difference(0.23).is_distinguishable  # 2.8


def test_degrees_of_freedom_are_those_of_what_weighs_most() -> None:
    items, seeds = Uncertainty(stderr=0.03), Uncertainty(stderr=0.001, freedom=1)
    together = Uncertainty.of(items, seeds, None)
    assert together is not None
    assert together.freedom > 1000
    together = Uncertainty.of(Uncertainty(stderr=0.001), Uncertainty(stderr=0.03, freedom=2))
    assert together is not None
    assert together.freedom == pytest.approx(2, abs=0.01)
    assert Uncertainty.of(None) is None


def test_the_same_finetuned_models_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """Seeds far apart, and each loses about as much without pauses."""
    results = [
        evaluation(variant="pausept_pauseft", value=value - lost * (1 - pauses / 10), stderr=0.0, seed=seed,
                   num_pauses_inf=pauses)
        for seed, (value, lost) in enumerate(((0.5, 0.1), (0.7, 0.11), (0.9, 0.12)))
        for pauses in (0, 10)
    ]  # fmt: skip
    (task,) = compared(tmp_path, *results)
    without, finetuned = task.cells
    difference = without.minus(finetuned)
    assert difference.value == pytest.approx(-0.11)
    assert difference.stderr == pytest.approx(0.01 / 3**0.5)
    assert difference.is_distinguishable


def test_without_a_standard_error_nothing_is_distinguishable(tmp_path: Path) -> None:
    (task,) = compared(tmp_path, evaluation(value=0.1), evaluation(variant="pausept_pauseft", value=0.9, stderr=None))
    ((_, _, difference),) = task.compared
    assert difference.stderr is None
    assert not difference.is_distinguishable


def scored(variant: str, scores: list[int], seed: int = 1) -> dict[str, Any]:
    """A result that lists all of its items."""
    samples = [
        {"prompt": f"item {place}", "pauses": 0, "output": "", "target": "", "correct": float(score)}
        for place, score in enumerate(scores)
    ]
    share = sum(scores) / len(scores)
    stderr = math.sqrt(share * (1 - share) / (len(scores) - 1))
    return evaluation(variant=variant, value=share, stderr=stderr, samples=samples, num_samples=len(scores), seed=seed)


def test_the_error_of_a_difference_is_taken_item_by_item_where_all_items_are_listed(tmp_path: Path) -> None:
    baseline = scored("stdpt_stdft", [1, 0, 1, 0, 1, 0, 0, 0])
    differences = {
        "the same answers and one more": ([1, 0, 1, 0, 1, 0, 0, 1], 0.125, 0.125),
        "the opposite answers": (
            [0, 1, 0, 1, 0, 1, 1, 1],
            0.25,
            statistics.stdev([-1, 1, -1, 1, -1, 1, 1, 1]) / 8**0.5,
        ),
    }
    for scores, value, stderr in differences.values():
        (task,) = compared(tmp_path, baseline, scored("pausept_stdft", scores))
        ((_, _, difference),) = task.compared
        assert (difference.value, difference.stderr) == (pytest.approx(value), pytest.approx(stderr))


def test_item_by_item_errors_count_the_scatter_of_seeds_too(tmp_path: Path) -> None:
    (task,) = compared(
        tmp_path,
        scored("stdpt_stdft", [1, 0, 1, 0]),
        scored("pausept_stdft", [1, 1, 1, 1], seed=1),
        scored("pausept_stdft", [1, 0, 1, 0], seed=2),
    )
    ((_, _, difference),) = task.compared
    items = statistics.stdev([0, 0.5, 0, 0.5]) / 2
    seeds = statistics.stdev([1.0, 0.5]) / 2**0.5
    assert difference.stderr == pytest.approx(math.hypot(items, seeds))


def test_different_items_are_compared_as_independent(tmp_path: Path) -> None:
    other = scored("pausept_stdft", [1, 1, 0, 0])
    other["samples"][0]["prompt"] = "another question"
    (task,) = compared(tmp_path, scored("stdpt_stdft", [1, 0, 1, 0]), other)
    ((cell, _, difference),) = task.compared
    assert difference.stderr == pytest.approx(math.hypot(cell.stderr or 0, task.cells[0].stderr or 0))


def test_results_with_other_inference_pauses_stay_out_of_the_variants(tmp_path: Path) -> None:
    (task,) = compared(
        tmp_path,
        evaluation(),
        evaluation(variant="pausept_pauseft"),
        evaluation(variant="pausept_pauseft", num_pauses_inf=0),
        evaluation(num_pauses_inf=10),
    )
    assert [(cell.setting.model, cell.setting.num_pauses_inf) for cell in task.matched] == [
        ("stdpt_stdft", 0),
        ("pausept_pauseft", 10),
    ]
    assert [task.baseline_of(cell) is not None for cell in task.cells] == [False, True, True, True]


def test_a_baseline_attends_the_prefix_as_what_is_compared_with_it(tmp_path: Path) -> None:
    (task,) = compared(tmp_path, evaluation(), evaluation(variant="pausept_pauseft") | {"prefix_attention": "causal"})
    assert task.compared == ()


def test_results_that_cannot_stand_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the same measurement"):
        compared(tmp_path, evaluation(), evaluation())
    longer = evaluation(seed=2)
    longer["pretraining"]["iterations"] = 800
    with pytest.raises(UserError, match="differently pretrained"):
        compared(tmp_path, evaluation(), longer)
    other = evaluation(variant="pausept_pauseft", primary_metric="f1", metrics={"f1": {"value": 0.3, "stderr": 0.1}})
    with pytest.raises(UserError, match=r"by exact_match, .* by f1"):
        compared(tmp_path, evaluation(), other)


def test_perplexity_is_no_percentage_and_better_when_lower(tmp_path: Path) -> None:
    (task,) = compared(
        tmp_path, evaluation(primary_metric="perplexity", metrics={"perplexity": {"value": 0.9, "stderr": 0.1}})
    )
    assert not task.is_percentage
    assert not task.higher_is_better


def test_a_results_own_chance_level_goes_before_the_known_one(tmp_path: Path) -> None:
    assert compared(tmp_path, evaluation())[0].chance == 0.5
    assert compared(tmp_path, evaluation(chance=0.25))[0].chance == 0.25
    assert compared(tmp_path, evaluation("gsm8k"))[0].chance is None
