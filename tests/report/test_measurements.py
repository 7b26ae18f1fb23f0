"""Grouping of results into measurements, their errors, and the differences between them."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest

from pause_megatron.errors import UserError
from pause_megatron.records.conversion import PretrainingRecord
from pause_megatron.records.evaluation import EvaluationRecord, Metric
from pause_megatron.report.labels import setting_label
from pause_megatron.report.uncertainty import Difference

from .inputs import evaluation, grouped, pretraining, with_scores


def test_a_single_seed_has_the_standard_error_of_its_evaluation() -> None:
    (task,) = grouped(evaluation(value=0.5, stderr=0.02))
    (measurement,) = task.measurements
    assert (measurement.seeds, measurement.mean, measurement.deviation) == (1, 0.5, None)
    assert measurement.stderr == pytest.approx(0.02)


def test_several_seeds_give_mean_deviation_and_the_error_of_items_and_seeds() -> None:
    results = [evaluation(value=value, stderr=0.02, seed=seed) for seed, value in enumerate((0.4, 0.5, 0.6))]
    (task,) = grouped(*results)
    (measurement,) = task.measurements
    assert (measurement.seeds, measurement.mean, measurement.deviation) == (3, pytest.approx(0.5), pytest.approx(0.1))
    assert measurement.stderr == pytest.approx(math.sqrt(0.02**2 + 0.1**2 / 3))


def test_a_difference_is_not_significant_if_its_interval_contains_zero() -> None:
    baseline = evaluation(value=0.50, stderr=0.03)
    (task,) = grouped(
        baseline,
        evaluation(variant="stdpt_pauseft", value=0.59, stderr=0.04),
        evaluation(variant="pausept_pauseft", value=0.61, stderr=0.04),
        evaluation(variant="pausept_stdft", value=0.39, stderr=0.04),
    )
    found = {measurement.setting.model: difference for measurement, _, difference in task.comparisons}
    assert {model: round(difference.value, 6) for model, difference in found.items()} == {
        "stdpt_pauseft": 0.09,
        "pausept_stdft": -0.11,
        "pausept_pauseft": 0.11,
    }
    assert all(difference.stderr == pytest.approx(0.05) for difference in found.values())
    assert [model for model, difference in found.items() if difference.is_significant] == [
        "pausept_stdft",
        "pausept_pauseft",
    ]


def test_with_few_seeds_a_significant_difference_has_more_standard_errors() -> None:
    """Student's t: with three seeds each and no error of items, there are four degrees of freedom, so 2.776."""

    def difference(gap: float) -> Difference:
        seeds = {"stdpt_stdft": (0.4, 0.5, 0.6), "pausept_pauseft": (0.4 + gap, 0.5 + gap, 0.6 + gap)}
        results = [
            evaluation(variant=variant, value=value, stderr=0.0, seed=seed)
            for variant, values in seeds.items()
            for seed, value in enumerate(values)
        ]
        (task,) = grouped(*results)
        ((_, _, found),) = task.comparisons
        return found

    one = difference(0.2)
    assert one.uncertainty is not None
    assert one.uncertainty.freedom == pytest.approx(4)
    assert one.stderr == pytest.approx(0.1 * (2 / 3) ** 0.5)
    assert not difference(0.22).is_significant  # 2.7 standard errors
    assert difference(0.23).is_significant  # 2.8


def test_the_same_finetuned_models_are_compared_seed_by_seed() -> None:
    """The seeds are far apart, but each loses about as much without pauses."""
    results = [
        evaluation(variant="pausept_pauseft", value=value - lost * (1 - pauses / 10), stderr=0.0, seed=seed,
                   num_pauses_inf=pauses)
        for seed, (value, lost) in enumerate(((0.5, 0.1), (0.7, 0.11), (0.9, 0.12)))
        for pauses in (0, 10)
    ]  # fmt: skip
    (task,) = grouped(*results)
    without, finetuned = task.measurements
    difference = without.minus(finetuned)
    assert difference.value == pytest.approx(-0.11)
    assert difference.stderr == pytest.approx(0.01 / 3**0.5)
    assert difference.is_significant


def test_without_a_standard_error_no_difference_is_significant() -> None:
    (task,) = grouped(evaluation(value=0.1), evaluation(variant="pausept_pauseft", value=0.9, stderr=None))
    ((_, _, difference),) = task.comparisons
    assert difference.stderr is None
    assert not difference.is_significant


def scored(variant: str, scores: list[float], seed: int = 1) -> EvaluationRecord:
    """A result that lists all of its items."""
    share = sum(scores) / len(scores)
    stderr = math.sqrt(share * (1 - share) / (len(scores) - 1))
    return with_scores(evaluation(variant=variant, stderr=stderr, seed=seed), scores)


def test_the_error_of_a_difference_is_computed_item_by_item_if_all_items_are_listed() -> None:
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
        (task,) = grouped(baseline, scored("pausept_stdft", scores))
        ((_, _, difference),) = task.comparisons
        assert (difference.value, difference.stderr) == (pytest.approx(value), pytest.approx(stderr))


def test_item_by_item_errors_include_the_scatter_of_seeds() -> None:
    (task,) = grouped(
        scored("stdpt_stdft", [1, 0, 1, 0]),
        scored("pausept_stdft", [1, 1, 1, 1], seed=1),
        scored("pausept_stdft", [1, 0, 1, 0], seed=2),
    )
    ((_, _, difference),) = task.comparisons
    items = statistics.stdev([0, 0.5, 0, 0.5]) / 2
    seeds = statistics.stdev([1.0, 0.5]) / 2**0.5
    assert difference.stderr == pytest.approx(math.hypot(items, seeds))


def test_results_on_different_items_are_independent() -> None:
    other = scored("pausept_stdft", [1, 1, 0, 0])
    other = replace(other, samples=(replace(other.samples[0], prompt="Another question?"), *other.samples[1:]))
    (task,) = grouped(scored("stdpt_stdft", [1, 0, 1, 0]), other)
    ((measurement, _, difference),) = task.comparisons
    assert difference.stderr == pytest.approx(math.hypot(measurement.stderr or 0, task.measurements[0].stderr or 0))


def test_results_with_other_inference_pauses_are_not_matched() -> None:
    (task,) = grouped(
        evaluation(),
        evaluation(variant="pausept_pauseft"),
        evaluation(variant="pausept_pauseft", num_pauses_inf=0),
        evaluation(num_pauses_inf=10),
    )
    assert [(measurement.setting.model, measurement.setting.num_pauses_inf) for measurement in task.matched] == [
        ("stdpt_stdft", 0),
        ("pausept_pauseft", 10),
    ]
    assert [task.baseline_of(measurement) is not None for measurement in task.measurements] == [False, True, True, True]


def test_results_are_compared_under_the_same_prefix_attention_only() -> None:
    (task,) = grouped(evaluation(), evaluation(variant="pausept_pauseft", prefix_attention="causal"))
    assert task.comparisons == ()


def pretrained(name: str, seed: int, *, pauses: str = "sequence") -> PretrainingRecord:
    return replace(
        pretraining(paused=pauses != "none"), name=f"{name}-{seed}", model_name=name, seed=seed, pauses=pauses
    )


def test_pretraining_seeds_of_a_model_are_one_measurement_and_models_are_several() -> None:
    models = [pretrained(name, seed) for name in ("every", "tenth") for seed in (0, 1)]
    results = [
        evaluation(variant="pausept_pauseft", seed=seed, pretraining=model, value=0.5 + index / 10)
        for index, model in enumerate(models)
        for seed in (1, 2)
    ]
    (task,) = grouped(evaluation(), *results)
    assert [(one.setting.model, one.setting.pretrained, one.seeds) for one in task.measurements] == [
        *(("stdpt_stdft", "", 1), ("pausept_pauseft", "every", 4), ("pausept_pauseft", "tenth", 4))
    ]
    assert [one.mean for one in task.measurements[1:]] == pytest.approx([0.55, 0.75])
    assert [setting_label(one.setting, (task,)) for one in task.measurements] == [
        *("StdPT_StdFT", "PausePT_PauseFT (every)", "PausePT_PauseFT (tenth)")
    ]
    with pytest.raises(UserError, match="the same measurement"):
        grouped(*results, results[0])


def test_inference_of_the_same_runs_is_paired_by_both_seeds() -> None:
    runs = [(pretrained("tenth", one), seed) for one in (0, 1) for seed in (1, 2)]
    values = (0.2, 0.4, 0.6, 0.8)
    results = [
        evaluation(variant="pausept_pauseft", pretraining=run, seed=seed, num_pauses_inf=number, value=value - less)
        for (run, seed), value in zip(runs, values, strict=True)
        for number, less in ((10, 0.0), (0, 0.1))
    ]
    (task,) = grouped(*results)
    without, matched = task.measurements
    difference = matched.minus(without)
    assert difference.value == pytest.approx(0.1)
    assert difference.stderr is not None
    assert matched.stderr is not None
    assert difference.stderr < matched.stderr  # the scatter of the runs drops out


def test_results_that_cannot_be_in_one_report_are_refused() -> None:
    with pytest.raises(UserError, match="the same measurement"):
        grouped(evaluation(), evaluation())
    longer = evaluation(seed=2, pretraining=replace(pretraining(paused=False), iterations=800))
    with pytest.raises(UserError, match="have the name stdpt but differ in iterations of pretraining"):
        grouped(evaluation(), longer)
    other = evaluation(variant="pausept_pauseft", primary_metric="f1", metrics={"f1": Metric(value=0.3, stderr=0.1)})
    with pytest.raises(UserError, match="by exact_match in one and by f1 in the other"):
        grouped(evaluation(), other)


def test_perplexity_is_not_a_percentage_and_lower_is_better() -> None:
    (task,) = grouped(evaluation(primary_metric="perplexity", metrics={"perplexity": Metric(value=0.9, stderr=0.1)}))
    assert not task.is_percentage
    assert not task.higher_is_better


def test_a_chance_level_in_the_result_overrides_the_known_one() -> None:
    assert grouped(evaluation())[0].chance_level == 0.5
    assert grouped(evaluation(chance=0.25))[0].chance_level == 0.25
    assert grouped(evaluation("gsm8k"))[0].chance_level is None
