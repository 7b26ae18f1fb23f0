"""Tables and curves of pretraining runs."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import get_type_hints

import pytest

from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.report.collect import read_run
from pause_megatron.report.sections.loss_curves import MOST_POINTS, thinned
from pause_megatron.report.sections.pretraining import (
    differences_table,
    pretraining_section,
    pretraining_table,
    training_figure,
    validation_table,
)
from pause_megatron.report.sections.pretraining_cost import equal_cost_figures, equal_cost_table

from ..inputs import write_run


def test_pretraining_runs_are_described_from_their_last_record(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", paused=True)))
    table = pretraining_table(runs)
    facts = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert table.columns == ("", "StdPT", "PausePT")
    assert facts["Parameters"] == ["1,861,632", "1,861,632"]
    assert facts["Layout"] == ["TP 2 · PP 1 · DP 2"] * 2
    assert facts["ZeRO"] == ["stage 1"] * 2
    assert facts["Iterations"] == ["400", "400"]
    assert facts["Real tokens"] == ["1,638,400", "1,489,961"]
    assert facts["Pause tokens"] == ["0", "148,439 (9.1%)"]
    tail = [record.loss for record in runs[0].train[-4:]]
    assert float(facts["Final training loss"][0]) == pytest.approx(sum(tail) / 4, abs=1e-4)


def test_the_layout_is_read_from_the_section_of_the_configuration_that_has_it() -> None:
    assert get_type_hints(PretrainConfig)["parallel"] is ParallelConfig


def test_validation_gives_each_model_on_each_text_with_perplexity(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", paused=True)))
    table = validation_table(runs)
    assert [(row[0].text, row[0].note) for row in table.rows] == [
        ("validation-standard", "standard text"),
        ("validation-pause", "paused text"),
    ]
    record = runs[1].last_validation("validation-pause")
    assert record is not None
    assert record.iteration == 400
    assert table.rows[1][2].text == f"{record.loss:.4f}"
    assert table.rows[1][2].note == f"perplexity {record.perplexity:.4g}"


def test_training_curves_are_drawn_over_iterations(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", paused=True)))
    last = [row for row in csv.reader(io.StringIO(training_figure(runs).data)) if row[0] == "PausePT"][-1]
    assert [float(number) for number in last[1:]] == [400, runs[1].last.loss]


def test_losses_at_equal_cost_are_drawn_and_interpolated(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a", iterations=600)), read_run(write_run(tmp_path / "b", paused=True)))
    figures = {figure.title: figure for figure in equal_cost_figures(runs, "validation-standard")}
    assert list(figures) == [f"Held-out loss over {axis}" for axis in ("real tokens", "all tokens", "FLOPs")]
    ends = {}
    for title, figure in figures.items():
        rows = [row for row in csv.reader(io.StringIO(figure.data)) if row[0] == "PausePT"]
        ends[title] = float(rows[-1][1])
    last = runs[1].last
    assert ends["Held-out loss over real tokens"] == last.real_tokens
    assert ends["Held-out loss over all tokens"] == last.real_tokens + last.pause_tokens == 400 * 16 * 256
    assert ends["Held-out loss over FLOPs"] == 400 * 16 * 3_000_000_000

    rows = {row[0].text: [cell.text for cell in row[1:]] for row in equal_cost_table(runs, "validation-standard").rows}
    standard = [record for record in runs[0].validation if record.dataset == "validation-standard"]
    paused = runs[1].last_validation("validation-standard")
    assert paused is not None
    at_400 = next(record.loss for record in standard if record.iteration == 400)
    assert rows["Equal all tokens"][1:] == rows["Equal FLOPs"][1:] == [f"{at_400:.4f}", f"{paused.loss:.4f}"]
    # the standard run has read as many real tokens between its validations of iterations 350 and 400
    before = next(record.loss for record in standard if record.iteration == 350)
    share = (last.real_tokens / (16 * 256) - 350) / 50
    assert float(rows["Equal real tokens"][1]) == pytest.approx(before + share * (at_400 - before), abs=2e-4)


def test_differences_of_losses_are_paired_by_block_and_by_seed(tmp_path: Path) -> None:
    runs = tuple(
        read_run(
            write_run(tmp_path / f"{name}{seed}", paused=name == "paused", name=f"{name}{seed}", model=name, seed=seed)
        )
        for name in ("plain", "paused")
        for seed in (0, 1, 2)
    )
    rows = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in differences_table(runs).rows}
    assert set(rows) == {("paused", "validation-standard"), ("paused", "validation-pause")}
    difference, interval, seeds = rows["paused", "validation-standard"]
    assert seeds == "3"
    expected = []
    for one, other in zip(runs[3:], runs[:3], strict=True):
        records = one.last_validation("validation-standard"), other.last_validation("validation-standard")
        assert records[0] is not None
        assert records[1] is not None
        expected.append(records[0].loss - records[1].loss)
    assert _number(difference) == pytest.approx(sum(expected) / 3, abs=1e-4)
    low, high = map(_number, interval.split(" to "))
    assert low < _number(difference) < high
    assert high - low < 0.5, "the blocks differ by 0.6, which the pairs share"


def test_sections_of_one_run_compare_nothing(tmp_path: Path) -> None:
    section = pretraining_section((read_run(write_run(tmp_path / "a")),))
    assert [table.name for table in section.tables if table.rows] == ["validation", "pretraining"]
    assert section.figures[0].title == "Training loss over iterations"


def _number(text: str) -> float:
    return float(text.replace("−", "-"))  # noqa: RUF001


def test_several_runs_of_a_kind_are_labelled_by_name(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a", name="first")), read_run(write_run(tmp_path / "b", name="second")))
    figure = training_figure(runs)
    assert {row[0] for row in csv.reader(io.StringIO(figure.data))} == {"series", "StdPT first", "StdPT second"}
    assert len(set(re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1\.5", figure.picture.element))) == 2


def test_long_curves_are_thinned_to_means() -> None:
    line = thinned("a", "#000000", range(1000), [number % 4 for number in range(1000)])
    assert len(line.x) == 250 <= MOST_POINTS
    assert line.x[0] == 1.5
    assert set(line.y) == {1.5}
    assert thinned("a", "#000000", [1.0, 2.0], [3.0, 4.0]).y == (3.0, 4.0)
