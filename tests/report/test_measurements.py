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

from .inputs import SMALL, evaluation, grouped, pretraining, with_scores


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


def test_the_same_finetuned_models_are_compared_seed_by_seed() -> None:
    """The seeds are far apart, but each loses the same items without pauses."""
    results = [
        replace(with_scores(evaluation(variant="pausept_pauseft", seed=seed, num_pauses_inf=pauses), scores), seed=seed)
        for seed, right in enumerate((40, 60, 80))
        for pauses, scores in ((10, [1.0] * right + [0.0] * (100 - right)),
                               (0, [0.0] * (10 + seed) + [1.0] * (right - 10 - seed) + [0.0] * (100 - right)))
    ]  # fmt: skip
    (task,) = grouped(*results)
    without, finetuned = task.measurements
    assert without.has_models_of(finetuned)
    difference = without.minus(finetuned)
    assert difference.value == pytest.approx(-0.11)
    assert difference.stderr is not None
    assert difference.stderr < 0.04  # unpaired seeds would have 0.16
    assert difference.uncertainty is not None
    assert difference.uncertainty.freedom == pytest.approx(2)


def test_without_a_standard_error_a_difference_has_no_error() -> None:
    (task,) = grouped(evaluation(value=0.1), evaluation(variant="pausept_pauseft", value=0.9, stderr=None))
    ((_, _, difference),) = task.comparisons
    assert difference.stderr is None
    assert difference.p_value is None


def test_a_standard_error_of_zero_is_not_believed() -> None:
    (task,) = grouped(evaluation(value=0.0, stderr=0.0), evaluation(variant="pausept_pauseft", value=0.1))
    ours, baseline, difference = task.comparisons[0]
    assert baseline.stderr == pytest.approx(1 / 502)
    assert difference.stderr == pytest.approx(math.hypot(ours.stderr or 0, 1 / 502))
    assert task.interval(baseline) == pytest.approx((0.0, 0.0076), abs=1e-4)


def scored(variant: str, scores: list[float], seed: int = 1) -> EvaluationRecord:
    """A result that lists all of its items."""
    share = sum(scores) / len(scores)
    stderr = math.sqrt(share * (1 - share) / (len(scores) - 1))
    return with_scores(evaluation(variant=variant, stderr=stderr, seed=seed), scores)


def test_the_error_of_a_difference_is_computed_item_by_item_if_all_items_are_listed() -> None:
    """With two more items, one for each variant (Bonett and Price 2012)."""
    baseline = scored("stdpt_stdft", [1, 0, 1, 0, 1, 0, 0, 0])
    differences = {
        "the same answers and one more": ([1, 0, 1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1, 1, -1]),
        "the opposite answers": ([0, 1, 0, 1, 0, 1, 1, 1], [-1, 1, -1, 1, -1, 1, 1, 1, 1, -1]),
    }
    for scores, by_item in differences.values():
        (task,) = grouped(baseline, scored("pausept_stdft", scores))
        ((_, _, difference),) = task.comparisons
        assert difference.value == pytest.approx(sum(by_item) / 8)
        assert difference.stderr == pytest.approx(statistics.pstdev(by_item) / 10**0.5)


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


def test_a_model_pretrained_with_pauses_after_every_token_is_matched_with_them() -> None:
    every = replace(pretraining(paused=True), pauses="every", pauses_per_token=3, pause_interval=1)
    found = [
        evaluation(variant=None, pretraining=every, num_pauses_inf=number, pause_placement=placement)
        for number, placement in ((3, "every"), (1, "every"), (0, "every"), (3, "append"))
    ]
    (task,) = grouped(*found, evaluation(variant=None, pretraining=pretraining(paused=False), num_pauses_inf=0))
    assert [(one.setting.model, one.setting.num_pauses_inf, one.setting.placement) for one in task.matched] == [
        ("stdpt", 0, "append"),
        ("pausept", 3, "every"),
    ]


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
    right = (10, 20, 30, 40)  # of 50 items; one in five of them is lost without pauses
    results = [
        with_scores(
            evaluation(variant="pausept_pauseft", pretraining=run, seed=seed, num_pauses_inf=number),
            [float(item < number_right and bool(number or item % 5)) for item in range(50)],
        )
        for (run, seed), number_right in zip(runs, right, strict=True)
        for number in (10, 0)
    ]
    (task,) = grouped(*results)
    without, matched = task.measurements
    difference = matched.minus(without)
    assert difference.value == pytest.approx(0.1)
    assert difference.stderr is not None
    assert matched.stderr is not None
    assert difference.stderr < matched.stderr / 2  # the scatter of the runs drops out


def test_finetunings_of_one_pretrained_model_are_one_run_if_there_are_several_models() -> None:
    values = {(0, 1): 0.2, (0, 2): 0.4, (1, 1): 0.7, (1, 2): 0.9}
    results = [
        evaluation(variant="pausept_pauseft", pretraining=pretrained("tenth", one), seed=seed, value=value)
        for (one, seed), value in values.items()
    ]
    ((several,),), ((single,),) = (
        [task.measurements for task in grouped(*chosen)] for chosen in (results, results[:2])
    )
    assert (several.seeds, several.pretraining_seeds, several.values) == (4, 2, pytest.approx([0.3, 0.8]))
    assert (single.seeds, single.pretraining_seeds, single.values) == (2, 1, [0.2, 0.4])
    assert several.seed_error is not None
    assert several.seed_error.stderr == pytest.approx(0.25)
    assert several.seed_error.freedom == 1


def test_the_smallest_model_without_pauses_is_the_baseline() -> None:
    larger = replace(SMALL, parameters=2 * SMALL.parameters)
    (task,) = grouped(
        evaluation(pretraining=pretrained("deeper", 0), architecture=larger, value=0.6),
        evaluation(pretraining=pretrained("plain", 0), value=0.5),
        evaluation(variant="pausept_pauseft", value=0.7),
    )
    (baseline,) = task.baselines.values()
    assert baseline.setting.pretrained == "plain"
    assert [round(difference.value, 6) for _, _, difference in task.comparisons] == [0.1, 0.2]


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
