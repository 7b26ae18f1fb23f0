"""Tables and curves of pretraining runs."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.intervals import mean_interval
from pause_megatron.records.pretraining import KindOfRates
from pause_megatron.report.collect import PretrainRun, read_run
from pause_megatron.report.sections.loss_curves import MOST_POINTS, thinned
from pause_megatron.report.sections.pretraining import (
    differences_table,
    pretraining_section,
    pretraining_sentence,
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


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (None, "pauses: sequence, rate 0.1"),
        ("drawn", "pauses: sequence, rates drawn around 0.1"),
        ("drawn+fixed", "pauses: sequence, rates drawn around 0.1 in a part of the data"),
    ],
)
def test_drawn_rates_are_shown(rates: KindOfRates | None, words: str, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", paused=True))
    record = replace(run.record, dataset=replace(run.record.dataset, rates=rates))
    [data] = [row for row in pretraining_table((replace(run, record=record),)).rows if row[0].text == "Data"]
    assert data[1].text == words


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
    assert ">FLOPs<" in figures["Held-out loss over FLOPs"].picture.svg.decode()
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


def seeds_of_two_models(folder: Path) -> tuple[PretrainRun, ...]:
    """Three seeds of the model "plain", then three of "paused"."""
    return tuple(
        read_run(
            write_run(folder / f"{name}{seed}", paused=name == "paused", name=f"{name}{seed}", model=name, seed=seed)
        )
        for name in ("plain", "paused")
        for seed in (0, 1, 2)
    )


def test_differences_of_losses_are_paired_by_block_and_by_seed(tmp_path: Path) -> None:
    runs = seeds_of_two_models(tmp_path)
    table = differences_table(runs)
    rows = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in table.rows[:2]}
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


def last_losses(runs: Sequence[PretrainRun], dataset: str) -> list[float]:
    found = [run.last_validation(dataset) for run in runs]
    return [record.loss for record in found if record is not None]


def test_each_model_is_compared_on_text_with_its_own_pauses(tmp_path: Path) -> None:
    runs = seeds_of_two_models(tmp_path)
    own = differences_table(runs).rows[2]
    assert [own[0].text, own[1].text, own[1].note] == [
        "paused",
        "validation-pause",
        "minus that on validation-standard",
    ]
    paused, plain = last_losses(runs[3:], "validation-pause"), last_losses(runs[:3], "validation-standard")
    expected = [one - other for one, other in zip(paused, plain, strict=True)]
    low, high = mean_interval(expected) or (0.0, 0.0)
    assert _number(own[2].text) == pytest.approx(sum(expected) / 3, abs=1e-4)
    ends = [_number(end) for end in own[3].text.split(" to ")]
    assert ends[0] < _number(own[2].text) < ends[1]
    # without the same targets, the interval is over seeds only
    unpaired = tuple(
        replace(run, validation=tuple(replace(one, block_losses=(), block_targets=()) for one in run.validation))
        for run in runs
    )
    [row] = [row for row in differences_table(unpaired).rows if "minus that on" in row[1].note]
    assert [_number(end) for end in row[3].text.split(" to ")] == pytest.approx([low, high], abs=1e-4)
    single = differences_table((runs[0], runs[3])).rows
    assert [len(row) for row in single] == [5] * 3

    table = equal_cost_table(runs, "validation-standard")
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["Equal all tokens, own text"] == ["1.64M", f"{sum(plain) / 3:.4f}", f"{sum(paused) / 3:.4f}"]


def test_tables_and_curves_of_several_seeds_have_means(tmp_path: Path) -> None:
    runs = seeds_of_two_models(tmp_path)
    section = pretraining_section(runs)
    for table in section.tables:
        assert len(table.columns) <= 5, table.name
    cell = validation_table(runs).rows[0][1]
    losses = last_losses(runs[:3], "validation-standard")
    mean = statistics.fmean(losses)
    assert cell.text == f"{mean:.4f}"
    assert cell.note == f"perplexity {math.exp(mean):.4g}; s.d. {statistics.stdev(losses):.4f}, 3 seeds"
    facts = {row[0].text: [one.text for one in row[1:]] for row in pretraining_table(runs).rows}
    assert facts["Seeds"] == ["0, 1, 2"] * 2
    assert facts["Parameters"] == ["1,861,632"] * 2
    assert facts["Final training loss"][0].count(",") == 2
    for figure in section.figures:
        assert {row[0] for row in csv.reader(io.StringIO(figure.data))} == {"series", "StdPT", "PausePT"}
        assert "means over seeds" in figure.caption
    curve = [row for row in csv.reader(io.StringIO(training_figure(runs).data)) if row[0] == "StdPT"]
    assert float(curve[-1][2]) == pytest.approx(statistics.fmean(run.last.loss for run in runs[:3]))
    said = pretraining_sentence(runs)
    assert f"StdPT has loss {mean:.3f} (perplexity {math.exp(mean):.4g}, mean of 3 seeds)" in said


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
