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
from pause_megatron.report.sections.training import (
    MOST_POINTS,
    pretraining_table,
    thinned,
    training_figures,
    validation_table,
)

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


def test_training_curves_are_drawn_over_iterations_and_over_real_tokens(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", paused=True)))
    over_iterations, over_tokens = training_figures(runs)
    last = [row for row in csv.reader(io.StringIO(over_iterations.data)) if row[0] == "PausePT"][-1]
    assert [float(number) for number in last[1:]] == [400, runs[1].last.loss]
    last = [row for row in csv.reader(io.StringIO(over_tokens.data)) if row[0] == "PausePT"][-1]
    assert float(last[1]) == runs[1].last.real_tokens


def test_several_runs_of_a_kind_are_labelled_by_name(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a", name="first")), read_run(write_run(tmp_path / "b", name="second")))
    figure = training_figures(runs)[0]
    assert {row[0] for row in csv.reader(io.StringIO(figure.data))} == {"series", "StdPT first", "StdPT second"}
    assert len(set(re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1\.5", figure.picture.element))) == 2


def test_long_curves_are_thinned_to_means() -> None:
    line = thinned("a", "#000000", range(1000), [number % 4 for number in range(1000)])
    assert len(line.x) == 250 <= MOST_POINTS
    assert line.x[0] == 1.5
    assert set(line.y) == {1.5}
    assert thinned("a", "#000000", [1.0, 2.0], [3.0, 4.0]).y == (3.0, 4.0)
