"""Series over M_ft and M_inf, collapses without pauses, and their figures."""

from __future__ import annotations

import csv
import io

import pytest

from pause_megatron.report.labels import series_label, setting_label
from pause_megatron.report.measurements import TaskResult
from pause_megatron.report.sections.pauses import (
    finetuning_pauses_figures,
    finetuning_series,
    heat_map_measurements,
    heat_maps,
    inference_figures,
    inference_series,
    removals,
    robustness_table,
)

from ..inputs import ablations, evaluation, grouped, sweep, variants


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


def test_a_collapse_is_a_significant_loss_of_more_than_half(squad: TaskResult) -> None:
    found = {removal.finetuned.setting.model: removal.is_collapse for removal in removals(squad)}
    assert found == {"stdpt_pauseft": False, "pausept_pauseft": True}
    for without, collapses in ((0.55, True), (0.7, False)):
        (task,) = grouped(
            evaluation("parity", "pausept_pauseft", value=0.8),
            evaluation("parity", "pausept_pauseft", value=without, num_pauses_inf=0),
        )
        (removal,) = removals(task)
        assert removal.kept == pytest.approx((without - 0.5) / 0.3)  # chance level of parity is 0.5
        assert removal.difference.is_significant
        assert removal.is_collapse is collapses
    (unclear,) = grouped(
        evaluation("parity", "pausept_pauseft", value=0.53),
        evaluation("parity", "pausept_pauseft", value=0.5, num_pauses_inf=0),
    )
    (removal,) = removals(unclear)
    assert removal.kept == 0
    assert not removal.is_collapse


def test_the_robustness_table_lists_the_m_inf_that_keep_half(squad: TaskResult) -> None:
    table = robustness_table([squad])
    rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert len(rows) == 4
    assert rows["PausePT_PauseFT, M_ft 50"][5:] == ["collapses", "10"]
    assert rows["StdPT_PauseFT, M_ft 10"][5:] == ["not significant", "0, 50"]


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
    assert len(removals(task)) == 1
    assert robustness_table([task]).rows


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
    standard, paused = heat_maps([squad])
    assert "▼" not in standard.picture.element
    assert paused.picture.element.count("▼") == 2
    assert len(list(csv.DictReader(io.StringIO(paused.data)))) == 9
