"""Series of cells that differ in one thing, the tables made of them, and the cost of pauses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.report.ablations import (
    filler_table,
    finetuning_series,
    heat_map_cells,
    inference_series,
    placement_table,
    removals,
    robustness_table,
)
from pause_megatron.report.collect import read_evaluation
from pause_megatron.report.compare import TaskResult, compare
from pause_megatron.report.cost import PauseCost, cost_series, cost_table
from pause_megatron.report.labels import series_label, setting_label
from pause_megatron.report.records import Architecture

from .inputs import PAPER_1B, evaluation, write_ablations, write_evaluation


@pytest.fixture
def ablations(tmp_path: Path) -> TaskResult:
    (task,) = compare(read_evaluation(path) for path in write_ablations(tmp_path))
    return task


def compared(folder: Path, *results: dict[str, Any]) -> TaskResult:
    paths = [write_evaluation(folder, str(number), values) for number, values in enumerate(results)]
    (task,) = compare(read_evaluation(path) for path in paths)
    return task


def test_series_vary_one_number_of_pauses(ablations: TaskResult) -> None:
    series = {series_label(cells[0].setting, ablations): [cell.setting.num_pauses_inf for cell in cells]
              for cells in inference_series(ablations)}  # fmt: skip
    assert series == {
        name: [0, 10, 50]
        for name in (
            *("StdPT_StdFT", "StdPT_PauseFT, M_ft 10", "StdPT_PauseFT, M_ft 50"),
            *("PausePT_StdFT", "PausePT_PauseFT, M_ft 10", "PausePT_PauseFT, M_ft 50"),
        )
    }
    assert {
        name: [cell.setting.num_pauses_ft for cell in cells] for name, cells in finetuning_series(ablations).items()
    } == {
        "StdPT": [0, 10, 50],
        "PausePT": [0, 10, 50],
    }
    assert {name: len(cells) for name, cells in heat_map_cells(ablations).items()} == {"StdPT": 9, "PausePT": 9}


def test_a_collapse_is_a_clear_loss_of_more_than_half(ablations: TaskResult, tmp_path: Path) -> None:
    found = {removal.finetuned.setting.model: removal.is_collapse for removal in removals(ablations)}
    assert found == {"stdpt_pauseft": False, "pausept_pauseft": True}
    for without, collapses in ((0.55, True), (0.7, False)):
        task = compared(
            tmp_path,
            evaluation("parity", "pausept_pauseft", value=0.8),
            evaluation("parity", "pausept_pauseft", value=without, num_pauses_inf=0),
        )
        (removal,) = removals(task)
        assert removal.kept == pytest.approx((without - 0.5) / 0.3)  # parity is guessed rightly half of the time
        assert removal.difference.is_distinguishable
        assert removal.is_collapse is collapses
    unclear = compared(
        tmp_path,
        evaluation("parity", "pausept_pauseft", value=0.53),
        evaluation("parity", "pausept_pauseft", value=0.5, num_pauses_inf=0),
    )
    (removal,) = removals(unclear)
    assert removal.kept == 0
    assert not removal.is_collapse


def test_robustness_says_where_a_model_keeps_half(ablations: TaskResult) -> None:
    table = robustness_table([ablations])
    assert table is not None
    rows = {row[0].text: [entry.text for entry in row] for row in table.rows}
    assert len(rows) == 4
    assert rows["PausePT_PauseFT, M_ft 50"][5:] == ["collapses", "10"]
    assert rows["StdPT_PauseFT, M_ft 10"][5:] == ["not distinguishable", "0, 50"]


def test_placements_and_fillers_stand_beside_the_usual(ablations: TaskResult) -> None:
    placements, fillers = placement_table([ablations]), filler_table([ablations])
    assert placements is not None
    assert placements.columns == ("Variant", "Task", "M_ft", "Appended", "Prepended")
    assert [row[0].text for row in placements.rows] == ["StdPT_PauseFT", "PausePT_PauseFT"]
    assert placements.rows[1][4].note.endswith(", lower")
    assert fillers is not None
    ((name, *_, kind, score),) = fillers.rows
    assert (name.text, kind.text) == ("StdPT_StdFT", "10 x '.'")
    assert score.note.startswith("−")  # noqa: RUF001


def test_fillers_and_other_placements_are_settings_of_their_own(tmp_path: Path) -> None:
    appended = evaluation("parity", "pausept_pauseft")
    moved = appended | {"pause_placement": "prepend"}  # at inference alone
    prepended = evaluation("parity", "pausept_pauseft", pause_placement="prepend", value=0.6)
    prepended["finetuning"]["pause_placement"] = "prepend"
    filler = appended | {"filler": "."}
    without = evaluation("parity", "pausept_pauseft", num_pauses_inf=0) | {"pause_placement": "prepend"}
    task = compared(tmp_path, appended, moved, prepended, filler, without)
    assert len(task.cells) == 5
    assert [setting_label(cell.setting, [task]) for cell in task.matched] == [
        "PausePT_PauseFT",
        "PausePT_PauseFT, prepended",
    ]
    assert len(removals(task)) == 1
    assert robustness_table([task]) is not None


def test_pauses_drawn_for_each_example_are_named_so(tmp_path: Path) -> None:
    drawn = evaluation("parity", "pausept_pauseft", num_pauses_ft=50, value=0.7)
    drawn["finetuning"]["min_num_pauses_ft"] = 0
    task = compared(tmp_path, evaluation("parity", "pausept_pauseft", num_pauses_ft=50), drawn)
    assert [setting_label(cell.setting, [task]) for cell in task.matched] == [
        "PausePT_PauseFT, M_ft 50",
        "PausePT_PauseFT, M_ft 0 to 50",
    ]


def test_ten_pauses_after_a_hundred_tokens_cost_about_two_layers_of_the_papers_larger_model() -> None:
    """The example of its appendix I."""
    cost = PauseCost(shape=Architecture(**PAPER_1B), prompt_tokens=100.0, num_pauses=10)
    heads, width = 32 * 64, 2048

    def layer(tokens: int, layer_heads: int = heads) -> int:
        return 4 * tokens * layer_heads * width + 2 * tokens**2 * layer_heads + 8 * tokens * width**2

    assert cost.ratio == pytest.approx(layer(110) / layer(100))
    assert 2 < cost.equal_layers < 2.5
    more = (layer(110) - layer(100)) / (layer(100, heads + 64) - layer(100))
    assert cost.equal_heads == pytest.approx(more)
    assert replace(cost, num_pauses=0).equal_layers == 0


def test_costs_are_given_where_the_models_shape_is_known(ablations: TaskResult, tmp_path: Path) -> None:
    table = cost_table([ablations])
    assert table is not None
    assert [(row[0].text, row[2].text) for row in table.rows] == [("squad", "10"), ("squad", "50")]
    points = cost_series(ablations)["PausePT"]
    assert [cell.setting.num_pauses_ft for cell, _ in points] == [0, 10, 50]
    assert points[0][1] == 1
    unknown = compared(tmp_path, evaluation(), evaluation(variant="pausept_pauseft"))
    assert cost_table([unknown]) is None
    assert cost_series(unknown) == {}
