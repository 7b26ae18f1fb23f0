"""Series over M_ft and M_inf, collapses without pauses, and their figures."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from pause_megatron.report.labels import series_label, setting_label
from pause_megatron.report.measurements import TaskResult
from pause_megatron.report.removals import find_removals, inference_series
from pause_megatron.report.sections.pauses import (
    finetuning_pauses_figures,
    finetuning_series,
    heat_map_measurements,
    heat_maps,
    inference_figures,
    robustness_table,
)
from pause_megatron.report.verdict_words import removal_sentences
from pause_megatron.report.verdicts import Obstacle, Verdicts, judge

from ..inputs import ablations, evaluation, grouped, sweep, variants
from ..situations import answered, correct


@pytest.fixture(scope="module")
def squad() -> TaskResult:
    (task,) = grouped(*ablations())
    return task


def test_series_vary_one_number_of_pauses(squad: TaskResult) -> None:
    series = {series_label(found[0].setting, squad): [one.setting.num_pauses_inf for one in found]
              for found in inference_series(squad)}  # fmt: skip
    assert series == {
        name: [0, 10, 50]
        for name in (
            *("StdPT_StdFT", "StdPT_PauseFT, M_ft 10", "StdPT_PauseFT, M_ft 50"),
            *("PausePT_StdFT", "PausePT_PauseFT, M_ft 10", "PausePT_PauseFT, M_ft 50"),
        )
    }
    assert {name: [one.setting.num_pauses_ft for one in found] for name, found in finetuning_series(squad).items()} == {
        "StdPT": [0, 10, 50],
        "PausePT": [0, 10, 50],
    }
    assert {name: len(found) for name, found in heat_map_measurements(squad).items()} == {"StdPT": 9, "PausePT": 9}


def removed(before: float, after: float, *, task: str = "parity", seeds: int = 3, items: int = 400) -> Verdicts:
    """Verdicts on a model that scores ``before`` with its pauses and ``after`` without."""
    records = []
    for seed in range(seeds):
        for pauses, share in ((10, before), (0, after)):
            scores = [float(item < round(items * (share + 0.005 * seed))) for item in range(items)]
            records.append(answered("pausept_pauseft", scores, task=task, seed=seed, num_pauses_inf=pauses))
    return judge(grouped(*records))


@pytest.mark.parametrize(
    ("before", "after", "collapses"),
    [(0.8, 0.55, True), (0.8, 0.0, True), (0.9, 0.85, False), (0.8, 0.65, None), (0.4, 0.0, None), (0.52, 0.1, None)],
)
def test_a_collapse_is_a_proven_loss_of_more_than_half_of_the_score_above_chance_level(
    before: float, after: float, collapses: bool | None
) -> None:
    """The chance level of parity is 0.5."""
    verdicts = removed(before, after)
    (verdict,) = verdicts.removals
    assert verdict.collapses is collapses
    (row,) = robustness_table([verdict.task], verdicts).rows
    assert row[5].text == {True: "collapses", False: "does not collapse", None: "cannot be judged"}[collapses]
    (words,) = removal_sentences(verdicts)
    assert words.startswith(
        {
            True: "Without pauses at inference, these models collapse: PausePT_PauseFT, M_ft 10 on parity (from 80",
            False: "Without pauses at inference, these models do not collapse: PausePT_PauseFT, M_ft 10 on parity",
            None: "Whether a model collapses without pauses at inference cannot be judged for PausePT_PauseFT, M_ft 10",
        }[collapses]
    )


def test_a_collapse_from_one_seed_or_from_no_skill_cannot_be_judged() -> None:
    (verdict,) = removed(0.8, 0.0, seeds=1).removals
    assert [reason.obstacle for reason in verdict.reasons] == [Obstacle.ONE_SEED]
    verdicts = removed(0.35, 0.0, items=20)
    (verdict,) = verdicts.removals
    assert [reason.obstacle for reason in verdict.reasons] == [Obstacle.NOT_ABOVE_GUESSING]
    (row,) = robustness_table([verdict.task], verdicts).rows
    assert [cell.text for cell in row[5:]] == ["cannot be judged", "–"]  # noqa: RUF001
    assert row[5].note == "PausePT_PauseFT is not shown to score above guessing (50.0%)"


def test_the_robustness_table_lists_the_m_inf_that_keep_half(squad: TaskResult) -> None:
    table = robustness_table([squad], judge([squad]))
    rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert len(rows) == 4
    assert rows["PausePT_PauseFT, M_ft 50"][6] == "10"
    assert rows["StdPT_PauseFT, M_ft 10"][6] == "0, 50"


def test_fillers_and_other_placements_are_separate_settings() -> None:
    model = "parity", "pausept_pauseft"
    (task,) = grouped(
        evaluation(*model),
        evaluation(*model, pause_placement="prepend", placement_ft="append"),
        evaluation(*model, pause_placement="prepend", value=0.6),
        evaluation(*model, filler="."),
        evaluation(*model, num_pauses_inf=0, pause_placement="prepend", placement_ft="append"),
    )
    assert len(task.measurements) == 5
    assert [setting_label(measurement.setting, [task]) for measurement in task.matched] == [
        "PausePT_PauseFT",
        "PausePT_PauseFT, prepended",
    ]
    assert len(find_removals(task)) == 1
    assert robustness_table([task], judge([task])).rows


def test_a_number_of_pauses_drawn_for_each_example_is_labelled_as_a_range() -> None:
    (task,) = grouped(
        evaluation("parity", "pausept_pauseft", num_pauses_ft=50),
        evaluation("parity", "pausept_pauseft", num_pauses_ft=50, min_num_pauses_ft=0, value=0.7),
    )
    assert [setting_label(measurement.setting, [task]) for measurement in task.matched] == [
        "PausePT_PauseFT, M_ft 50",
        "PausePT_PauseFT, M_ft 0 to 50",
    ]


def test_the_inference_chart_is_drawn_only_if_m_inf_varies() -> None:
    assert inference_figures(grouped(*variants())) == []
    (figure,) = inference_figures(grouped(*variants(), *sweep()))
    rows = [row for row in csv.DictReader(io.StringIO(figure.data)) if row["variant"] == "pausept_pauseft"]
    assert [int(row["num_pauses_inf"]) for row in rows] == [0, 5, 10, 20]
    assert [float(row["mean"]) for row in rows] == pytest.approx([0.49, 0.6, 0.83, 0.74])
    assert "PausePT_PauseFT, M_ft 10 from 49 to 74" in figure.alt


def test_a_chart_has_the_baseline_of_each_prefix_attention_and_the_chance_level() -> None:
    records = [
        evaluation("parity", variant, num_pauses_inf=pauses, prefix_attention=attention)
        for variant in ("stdpt_stdft", "stdpt_pauseft")
        for pauses in (0, 10)
        for attention in ("bidirectional", "causal")
    ]
    (figure,) = inference_figures(grouped(*records))
    for label in ("StdPT_StdFT, M_inf 0, bidirectional prefix", "StdPT_StdFT, M_inf 0, causal prefix", "chance level"):
        assert f">{label}<" in figure.picture.element
    (figure,) = inference_figures(grouped(*records[::2]))
    assert ">StdPT_StdFT, M_inf 0<" in figure.picture.element


def test_ablations_are_drawn_over_m_ft_and_as_heat_maps_over_both(squad: TaskResult) -> None:
    (curve,) = finetuning_pauses_figures([squad])
    assert "StdPT from" in curve.alt
    assert "PausePT from" in curve.alt
    rows = list(csv.DictReader(io.StringIO(curve.data)))
    assert [(row["variant"], row["num_pauses_ft"]) for row in rows] == [
        *(("stdpt_stdft", "0"), ("stdpt_pauseft", "10"), ("stdpt_pauseft", "50")),
        *(("pausept_stdft", "0"), ("pausept_pauseft", "10"), ("pausept_pauseft", "50")),
    ]
    standard, paused = heat_maps([squad], judge([squad]))
    assert len(list(csv.DictReader(io.StringIO(standard.data)))) == 9
    assert len(list(csv.DictReader(io.StringIO(paused.data)))) == 9
    assert "▼" not in standard.picture.element + paused.picture.element  # too few items and seeds to judge


def test_a_heat_map_marks_the_models_that_collapse() -> None:
    records = [
        answered(
            f"{pretrained}_pauseft",
            correct(kept if inference == 0 else 0.6, 400, seed),
            task="squad",
            seed=seed,
            num_pauses_ft=most,
            num_pauses_inf=inference,
        )
        for pretrained, kept in (("stdpt", 0.55), ("pausept", 0.1))
        for most in (10, 50)
        for inference in (0, most)
        for seed in (1, 2, 3)
    ]
    (task,) = grouped(*records)
    standard, paused = heat_maps([task], judge([task]))
    assert "▼" not in standard.picture.element
    assert paused.picture.element.count("▼") == 2
    assert paused.caption.endswith("▼: collapses without pauses.")


def test_several_pretrained_models_are_never_in_one_map_or_on_one_line() -> None:
    records = []
    for name in ("deep", "wide"):
        for record in ablations():
            assert record.pretraining is not None
            own = replace(record.pretraining, name=name, model_name=name, seed=record.seed)
            records.append(replace(record, pretraining=own))
    (task,) = grouped(*records)
    maps = heat_map_measurements(task)
    assert list(maps) == ["StdPT (deep)", "StdPT (wide)", "PausePT (deep)", "PausePT (wide)"]
    for measurements in (*maps.values(), *finetuning_series(task).values()):
        places = [(one.setting.num_pauses_ft, one.setting.num_pauses_inf) for one in measurements]
        assert len(set(places)) == len(places)
        assert len({(one.setting.model.partition("_")[0], one.setting.pretrained) for one in measurements}) == 1
    assert len({figure.name for figure in [*heat_maps([task], judge([task])), *inference_figures([task])]}) == 8


def test_one_number_of_pauses_of_several_pretrained_models_is_no_series() -> None:
    records = [
        replace(record, pretraining=replace(record.pretraining, name=name, model_name=name, seed=1))
        for name in ("deep", "wide")
        for record in variants(tasks=("parity",))
        if record.pretraining is not None
    ]
    (task,) = grouped(*records)
    assert finetuning_series(task) == {}
    assert heat_map_measurements(task) == {}
