from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from pause_megatron.report.collect import read_evaluation, read_run
from pause_megatron.report.compare import compare
from pause_megatron.report.curves import MOST_POINTS, thinned, training_figures
from pause_megatron.report.drawing import Line, draw_lines
from pause_megatron.report.figures import bar_figures, sweep_figures

from .inputs import evaluation, write_evaluation, write_run, write_sweep, write_variants


def test_bars_show_the_values_of_the_table_in_percent(tmp_path: Path) -> None:
    (figure,) = bar_figures(compare(read_evaluation(path) for path in write_variants(tmp_path, tasks=("parity",))))
    rows = list(csv.reader(io.StringIO(figure.data)))
    assert rows[0] == ["variant", "exact_match (%)", "standard_error"]
    assert [(name, float(value)) for name, value, _ in rows[1:]] == [
        ("StdPT_StdFT", 52.0),
        ("StdPT_PauseFT", pytest.approx(55.0)),
        ("PausePT_StdFT", 51.0),
        ("PausePT_PauseFT", 83.0),
    ]
    assert "PausePT_PauseFT 83.0 ± 1.7" in figure.alt
    assert ">chance<" in figure.picture.svg
    assert figure.picture.png.startswith(b"\x89PNG")


def test_bars_of_nothing_but_zeros_are_drawn(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, "zero", evaluation("gsm8k", value=0.0, stderr=0.0))
    (figure,) = bar_figures(compare([read_evaluation(path)]))
    assert ">0.0 ± 0.0<" in figure.picture.svg
    assert ">chance<" not in figure.picture.svg


def test_a_sweep_is_drawn_only_where_inference_pauses_vary(tmp_path: Path) -> None:
    variants = [read_evaluation(path) for path in write_variants(tmp_path)]
    assert sweep_figures(compare(variants)) == []
    sweep = [read_evaluation(path) for path in write_sweep(tmp_path)]
    (figure,) = sweep_figures(compare([*variants, *sweep]))
    rows = [row for row in csv.reader(io.StringIO(figure.data)) if row[0] == "PausePT_PauseFT, M_ft 10"]
    assert [float(row[1]) for row in rows] == [0, 5, 10, 20]
    assert [float(row[2]) for row in rows] == pytest.approx([49, 60, 83, 74])


def test_training_curves_are_drawn_over_iterations_and_over_real_tokens(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", paused=True)))
    over_iterations, over_tokens = training_figures(runs)
    last = [row for row in csv.reader(io.StringIO(over_iterations.data)) if row[0] == "PausePT"][-1]
    assert [float(number) for number in last[1:]] == [400, runs[1].last.loss]
    last = [row for row in csv.reader(io.StringIO(over_tokens.data)) if row[0] == "PausePT"][-1]
    assert float(last[1]) == runs[1].last.real_tokens


def test_several_runs_of_a_kind_are_told_apart_by_name(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a", name="first")), read_run(write_run(tmp_path / "b", name="second")))
    figure = training_figures(runs)[0]
    assert {row[0] for row in csv.reader(io.StringIO(figure.data))} == {"series", "StdPT first", "StdPT second"}
    assert len(set(re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1\.5", figure.picture.svg))) == 2


def test_long_curves_are_thinned_to_means() -> None:
    line = thinned("a", "#000000", range(1000), [number % 4 for number in range(1000)])
    assert len(line.x) == 250 <= MOST_POINTS
    assert line.x[0] == 1.5
    assert set(line.y) == {1.5}
    assert thinned("a", "#000000", [1.0, 2.0], [3.0, 4.0]).y == (3.0, 4.0)


def test_an_svg_brings_no_size_no_foreign_reference_and_ids_of_its_own() -> None:
    lines = [Line(label="a $x$ <b>", color="#0072b2", x=(0.0, 1.0), y=(1.0, 2.0))]
    one, again, two = (draw_lines(name, 'an "alt"', lines, "x", "y").svg for name in ("one", "one", "two"))
    assert one == again
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(#|href="#)([^")]*)', one)) <= ids[0]
    assert "http" not in one
    assert "a $x$ &lt;b&gt;" in one
    assert re.match(r"<svg [^>]*viewBox=[^>]*role=\"img\" aria-label='an \"alt\"'>", one)
    assert not re.match(r"<svg [^>]*\b(width|height)=", one)


def test_lines_of_one_colour_differ_in_their_dashes() -> None:
    lines = [Line(label=label, color="#0072b2", x=(0.0, 1.0), y=(1.0, 2.0)) for label in ("a", "b")]
    assert "stroke-dasharray: 5" in draw_lines("chart", "alt", lines, "x", "y").svg
    assert "stroke-dasharray: 5" not in draw_lines("chart", "alt", lines[:1], "x", "y").svg
