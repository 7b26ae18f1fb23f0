from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.report.collect import read_evaluation, read_run
from pause_megatron.report.compare import compare
from pause_megatron.report.pretraining import find_setting, layout, pretraining_table, validation_table, zero
from pause_megatron.report.tables import Table, metrics_table, settings_table, variants_table

from .inputs import evaluation, write_evaluation, write_run, write_variants


def texts(table: Table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in table.rows]


def test_variants_are_rows_and_tasks_columns(tmp_path: Path) -> None:
    table = variants_table(compare(read_evaluation(path) for path in write_variants(tmp_path)))
    assert table.columns == ("Variant", "gsm8k (exact_match, %)", "parity (exact_match, %)")
    assert texts(table) == [
        ["StdPT_StdFT", "7.0 ± 1.1", "52.0 ± 2.2"],
        ["StdPT_PauseFT", "7.0 ± 1.1", "55.0 ± 2.2"],
        ["PausePT_StdFT", "7.0 ± 1.1", "51.0 ± 2.2"],
        ["PausePT_PauseFT", "7.0 ± 1.1", "83.0 ± 1.7"],
    ]
    assert table.rows[3][2].note == "M_ft 10, n 500, 1 seed"


def test_every_number_of_finetuning_pauses_has_its_own_row_and_missing_results_a_dash(tmp_path: Path) -> None:
    results = [
        evaluation("parity"),
        evaluation("parity", "pausept_pauseft", num_pauses_ft=10, value=0.6),
        evaluation("parity", "pausept_pauseft", num_pauses_ft=50, value=0.7),
        evaluation("gsm8k", "pausept_pauseft", num_pauses_ft=10, value=0.1),
    ]
    paths = [write_evaluation(tmp_path, str(number), values) for number, values in enumerate(results)]
    table = variants_table(compare(read_evaluation(path) for path in paths))
    assert [(row[0], row[1][:4].strip(), row[2][:4]) for row in texts(table)] == [
        ("StdPT_StdFT", "–", "52.0"),  # noqa: RUF001
        ("PausePT_PauseFT, M_ft 10", "10.0", "60.0"),
        ("PausePT_PauseFT, M_ft 50", "–", "70.0"),  # noqa: RUF001
    ]


def test_settings_say_each_difference_in_words(tmp_path: Path) -> None:
    paths = write_variants(tmp_path, tasks=("parity",))
    table = settings_table(compare(read_evaluation(path) for path in paths))
    assert [row[-1].note for row in table.rows] == [
        "",
        "not distinguishable",
        "not distinguishable",
        "higher",
    ]


def test_other_metrics_are_means_over_seeds(tmp_path: Path) -> None:
    paths = write_variants(tmp_path, tasks=("parity",), seeds=(1, 2))
    table = metrics_table(compare(read_evaluation(path) for path in paths))
    assert table is not None
    assert texts(table)[3] == ["PausePT_PauseFT", "parity", "10", "10", "2", "rouge1", "0.4"]
    assert metrics_table(compare([read_evaluation(write_evaluation(tmp_path, "bare", evaluation()))])) is None


def test_pretraining_runs_are_described_from_their_last_record(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", paused=True)))
    table = pretraining_table(runs)
    facts = {row[0]: row[1:] for row in texts(table)}
    assert table.columns == ("", "StdPT", "PausePT")
    assert facts["Parameters"] == ["1,861,632", "1,861,632"]
    assert facts["Layout"] == ["TP 2 · PP 1 · DP 2"] * 2
    assert facts["Iterations"] == ["400", "400"]
    assert facts["Real tokens"] == ["1,638,400", "1,489,961"]
    assert facts["Pause tokens"] == ["0", "148,439 (9.1%)"]
    tail = [record.loss for record in runs[0].train[-4:]]
    assert float(facts["Final training loss"][0]) == pytest.approx(sum(tail) / 4, abs=1e-4)


def test_validation_gives_each_model_on_each_text_with_perplexity(tmp_path: Path) -> None:
    runs = (read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", paused=True)))
    table = validation_table(runs)
    assert table is not None
    assert [(row[0].text, row[0].note) for row in table.rows] == [
        ("validation-standard", "standard text"),
        ("validation-pause", "paused text"),
    ]
    record = runs[1].last_validation("validation-pause")
    assert record is not None
    assert record.iteration == 400
    assert table.rows[1][2].text == f"{record.loss:.4f}"
    assert table.rows[1][2].note == f"perplexity {record.perplexity:.4g}"


def test_layout_and_zero_are_found_wherever_the_configuration_keeps_them(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a"))
    assert zero(run) == "zero1_fp32.json"
    assert zero(replace(run, zero_stage=0)) == "stage 0"
    run.config.clear()
    assert (layout(run), zero(run)) == ("TP 1 · PP 1 · DP 4", "–")  # noqa: RUF001
    assert find_setting({"a": {"b": {"c": 7}}}, "c") == 7
