"""Tables and bars of the variants."""

from __future__ import annotations

import base64
import csv
import io
from xml.etree import ElementTree

from pause_megatron.report.elements import Table
from pause_megatron.report.sections.variants import (
    bar_figures,
    comparisons_table,
    metrics_table,
    settings_table,
    variants_table,
    verdicts_table,
)
from pause_megatron.report.verdicts import judge

from ..inputs import evaluation, grouped, variants
from ..situations import study


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_variants_are_rows_and_tasks_columns() -> None:
    table = variants_table(grouped(*variants()))
    assert table.columns == ("Variant", "gsm8k (exact_match in %)", "parity (exact_match in %)")
    assert texts(table) == [
        ["StdPT_StdFT", "7.0 (5.1 to 9.6)", "52.0 (47.6 to 56.3)"],
        ["StdPT_PauseFT", "7.0 (5.1 to 9.6)", "55.0 (50.6 to 59.3)"],
        ["PausePT_StdFT", "7.0 (5.1 to 9.6)", "51.0 (46.6 to 55.4)"],
        ["PausePT_PauseFT", "7.0 (5.1 to 9.6)", "83.0 (79.5 to 86.0)"],
    ]
    assert table.rows[3][2].note == "M_ft 10, n 500, 1 seed"


def test_every_m_ft_has_its_own_row_and_missing_results_a_dash() -> None:
    table = variants_table(
        grouped(
            evaluation("parity"),
            evaluation("parity", "pausept_pauseft", num_pauses_ft=10, value=0.6),
            evaluation("parity", "pausept_pauseft", num_pauses_ft=50, value=0.7),
            evaluation("gsm8k", "pausept_pauseft", num_pauses_ft=10, value=0.1),
        )
    )
    assert [(row[0], row[1][:4].strip(), row[2][:4]) for row in texts(table)] == [
        ("StdPT_StdFT", "–", "52.0"),  # noqa: RUF001
        ("PausePT_PauseFT, M_ft 10", "10.0", "60.0"),
        ("PausePT_PauseFT, M_ft 50", "–", "70.0"),  # noqa: RUF001
    ]


def test_models_with_hints_have_rows_of_their_own() -> None:
    tasks = grouped(
        evaluation("parity"),
        evaluation("parity", "stdpt_pauseft", value=0.5),
        evaluation("parity", "stdpt_pauseft", value=1.0, hint_weight=1.0),
    )
    assert [row[:2] for row in texts(variants_table(tasks))] == [
        ["StdPT_StdFT", "52.0 (47.6 to 56.3)"],
        ["StdPT_PauseFT", "50.0 (45.6 to 54.4)"],
        ["StdPT_PauseFT, hints with weight 1", "100.0 (99.2 to 100.0)"],
    ]
    kinds = [row[4].text for row in settings_table(tasks).rows]
    assert kinds[1:] == ["appended", "appended, hints with weight 1"]


def test_the_settings_table_gives_differences_without_a_verdict() -> None:
    table = settings_table(grouped(*variants(tasks=("parity",))))
    assert [row[-1].text for row in table.rows] == ["–", "+3.0", "−1.0", "+31.0"]  # noqa: RUF001
    assert "not tested" in table.caption


def test_other_metrics_are_means_over_seeds() -> None:
    table = metrics_table(grouped(*variants(tasks=("parity",), seeds=(1, 2))))
    assert texts(table)[3] == ["PausePT_PauseFT", "parity", "10", "10", "2", "rouge1", "0.4"]
    assert not metrics_table(grouped(evaluation())).rows


def test_the_comparisons_table_gives_interval_p_and_verdict_or_the_reason_why_not() -> None:
    records = study({"stdpt_stdft": 0.4, "pausept_pauseft": 0.6, "pausept_stdft": 0.4}, items=300)
    table = comparisons_table(judge(grouped(*records, *study({"stdpt_pauseft": 0.5}, seeds=(1,), items=300))))
    found = {row[0].text: [cell.text for cell in row[2:]] for row in table.rows}
    assert found["StdPT_PauseFT"] == ["+9.0", "–", "–", "cannot be judged"]  # noqa: RUF001
    assert table.rows[0][5].note == "StdPT_PauseFT has only one finetuning seed"
    difference, ends, p_value, verdict = found["PausePT_PauseFT"]
    low, _, high = ends.partition(" to ")
    assert (difference, low[0], high[0], verdict) == ("+20.0", "+", "+", "helps")
    assert float(p_value.lstrip("<")) < 0.05
    _, ends, p_value, verdict = found["PausePT_StdFT"]
    assert ends[0] == "−"  # noqa: RUF001
    assert float(p_value) > 0.05
    assert verdict.startswith("no difference larger than ")
    assert "for 2 comparisons" in table.caption


def test_the_verdicts_table_has_a_row_for_each_task() -> None:
    records = [*study({"stdpt_stdft": 0.4, "pausept_pauseft": 0.6}), *study({"stdpt_stdft": 0.4}, task="gsm8k")]
    rows = texts(verdicts_table(judge(grouped(*records))))
    assert [row[:2] for row in rows] == [["gsm8k", "cannot be judged"], ["squad", "helps"]]
    assert rows[0][2] == "Only StdPT_StdFT was measured."
    assert rows[1][2].startswith("PausePT_PauseFT: helps, +20.0 points (95 % interval +")


def test_bars_have_the_values_of_the_table_in_percent() -> None:
    (figure,) = bar_figures(grouped(*variants(tasks=("parity",))))
    rows = list(csv.DictReader(io.StringIO(figure.data)))
    assert [(row["variant"], row["num_pauses_ft"], float(row["mean"])) for row in rows] == [
        ("stdpt_stdft", "0", 0.52),
        ("stdpt_pauseft", "10", 0.55),
        ("pausept_stdft", "0", 0.51),
        ("pausept_pauseft", "10", 0.83),
    ]
    assert {row["metric"] for row in rows} == {"exact_match"}
    assert "PausePT_PauseFT 83.0 (79.5 to 86.0)" in figure.alt
    assert ">chance level<" in figure.picture.element
    assert figure.picture.png.startswith(b"\x89PNG")


def test_bars_of_length_zero_are_drawn() -> None:
    (figure,) = bar_figures(grouped(evaluation("gsm8k", value=0.0, stderr=0.0)))
    assert ">0.0<" in figure.picture.element
    assert ">chance level<" not in figure.picture.element


def test_a_figure_offers_its_files_as_data_urls() -> None:
    (figure,) = bar_figures(grouped(*variants(tasks=("parity",))))
    files = {name: base64.b64decode(address.partition("base64,")[2]) for name, address in figure.downloads.items()}
    assert sorted(files) == ["variants-parity.csv", "variants-parity.svg"]
    assert files["variants-parity.csv"].decode() == figure.data
    assert ElementTree.fromstring(files["variants-parity.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
