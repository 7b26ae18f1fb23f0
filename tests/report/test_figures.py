from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pause_megatron.report.collect import read_evaluation, read_run
from pause_megatron.report.compare import compare
from pause_megatron.report.curves import MOST_POINTS, thinned, training_figures
from pause_megatron.report.drawing import Line, draw_lines
from pause_megatron.report.figures import bar_figures
from pause_megatron.report.sweeps import cost_figures, finetuning_pauses_figures, heat_maps, inference_figures

from .inputs import evaluation, write_ablations, write_evaluation, write_run, write_sweep, write_variants


def test_bars_show_the_values_of_the_table_in_percent(tmp_path: Path) -> None:
    (figure,) = bar_figures(compare(read_evaluation(path) for path in write_variants(tmp_path, tasks=("parity",))))
    rows = list(csv.DictReader(io.StringIO(figure.data)))
    assert [(row["variant"], row["num_pauses_ft"], float(row["mean"])) for row in rows] == [
        ("stdpt_stdft", "0", 0.52),
        ("stdpt_pauseft", "10", 0.55),
        ("pausept_stdft", "0", 0.51),
        ("pausept_pauseft", "10", 0.83),
    ]
    assert {row["metric"] for row in rows} == {"exact_match"}
    assert "PausePT_PauseFT 83.0 ± 1.7" in figure.alt
    assert ">chance<" in figure.picture.element
    assert figure.picture.png.startswith(b"\x89PNG")


def test_bars_of_nothing_but_zeros_are_drawn(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, "zero", evaluation("gsm8k", value=0.0, stderr=0.0))
    (figure,) = bar_figures(compare([read_evaluation(path)]))
    assert ">0.0 ± 0.0<" in figure.picture.element
    assert ">chance<" not in figure.picture.element


def test_a_sweep_is_drawn_only_where_inference_pauses_vary(tmp_path: Path) -> None:
    variants = [read_evaluation(path) for path in write_variants(tmp_path)]
    assert inference_figures(compare(variants)) == []
    sweep = [read_evaluation(path) for path in write_sweep(tmp_path)]
    (figure,) = inference_figures(compare([*variants, *sweep]))
    rows = [row for row in csv.DictReader(io.StringIO(figure.data)) if row["variant"] == "pausept_pauseft"]
    assert [int(row["num_pauses_inf"]) for row in rows] == [0, 5, 10, 20]
    assert [float(row["mean"]) for row in rows] == pytest.approx([0.49, 0.6, 0.83, 0.74])
    assert "PausePT_PauseFT, M_ft 10 from 49 to 74" in figure.alt


def test_ablations_are_drawn_over_both_numbers_of_pauses(tmp_path: Path) -> None:
    tasks = compare(read_evaluation(path) for path in write_ablations(tmp_path))
    (curve,) = finetuning_pauses_figures(tasks)
    assert "StdPT from" in curve.alt
    assert "PausePT from" in curve.alt
    rows = list(csv.DictReader(io.StringIO(curve.data)))
    assert [(row["variant"], row["num_pauses_ft"]) for row in rows] == [
        *(("stdpt_stdft", "0"), ("stdpt_pauseft", "10"), ("stdpt_pauseft", "50")),
        *(("pausept_stdft", "0"), ("pausept_pauseft", "10"), ("pausept_pauseft", "50")),
    ]
    standard, paused = heat_maps(tasks)
    assert "▼" not in standard.picture.element
    assert paused.picture.element.count("▼") == 2
    assert len(list(csv.DictReader(io.StringIO(paused.data)))) == 9
    (cost,) = cost_figures(tasks)
    assert "Cost of the prefix" in cost.alt


def test_a_figure_is_offered_as_files_that_the_page_holds_itself(tmp_path: Path) -> None:
    (figure,) = bar_figures(compare(read_evaluation(path) for path in write_variants(tmp_path, tasks=("parity",))))
    files = {name: base64.b64decode(address.partition("base64,")[2]) for name, address in figure.downloads.items()}
    assert sorted(files) == ["variants-parity.csv", "variants-parity.svg"]
    assert files["variants-parity.csv"].decode() == figure.data
    assert ElementTree.fromstring(files["variants-parity.svg"]).tag == "{http://www.w3.org/2000/svg}svg"


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
    assert len(set(re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1\.5", figure.picture.element))) == 2


def test_long_curves_are_thinned_to_means() -> None:
    line = thinned("a", "#000000", range(1000), [number % 4 for number in range(1000)])
    assert len(line.x) == 250 <= MOST_POINTS
    assert line.x[0] == 1.5
    assert set(line.y) == {1.5}
    assert thinned("a", "#000000", [1.0, 2.0], [3.0, 4.0]).y == (3.0, 4.0)


def test_an_svg_brings_no_size_no_foreign_reference_and_ids_of_its_own() -> None:
    lines = [Line(label="a $x$ <b>", color="#0072b2", x=(0.0, 1.0), y=(1.0, 2.0))]
    one, again, two = (draw_lines(name, 'an "alt"', lines, "x", "y").element for name in ("one", "one", "two"))
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
    assert "stroke-dasharray: 5" in draw_lines("chart", "alt", lines, "x", "y").element
    assert "stroke-dasharray: 5" not in draw_lines("chart", "alt", lines[:1], "x", "y").element
