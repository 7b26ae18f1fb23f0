"""Tables and bars of the variants."""

from __future__ import annotations

import base64
import csv
import io
from xml.etree import ElementTree

from pause_megatron.report.elements import Table
from pause_megatron.report.sections.variants import (
    bar_figures,
    metrics_table,
    settings_table,
    significance_table,
    variants_table,
)

from ..inputs import evaluation, grouped, variants, with_scores


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_variants_are_rows_and_tasks_columns() -> None:
    table = variants_table(grouped(*variants()))
    assert table.columns == ("Variant", "gsm8k (exact_match in %)", "parity (exact_match in %)")
    assert texts(table) == [
        ["StdPT_StdFT", "7.0 ± 1.1", "52.0 ± 2.2"],
        ["StdPT_PauseFT", "7.0 ± 1.1", "55.0 ± 2.2"],
        ["PausePT_StdFT", "7.0 ± 1.1", "51.0 ± 2.2"],
        ["PausePT_PauseFT", "7.0 ± 1.1", "83.0 ± 1.7"],
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


def test_the_settings_table_gives_the_significance_of_each_difference() -> None:
    table = settings_table(grouped(*variants(tasks=("parity",))))
    assert [row[-1].note for row in table.rows] == ["", "not significant", "not significant", "significantly higher"]


def test_other_metrics_are_means_over_seeds() -> None:
    table = metrics_table(grouped(*variants(tasks=("parity",), seeds=(1, 2))))
    assert texts(table)[3] == ["PausePT_PauseFT", "parity", "10", "10", "2", "rouge1", "0.4"]
    assert not metrics_table(grouped(evaluation())).rows


def test_results_without_their_test_items_have_no_bootstrap() -> None:
    scores = [float(item % 2) for item in range(100)]
    better = [1.0 if item % 5 == 0 else score for item, score in enumerate(scores)]
    table = significance_table(
        grouped(
            with_scores(evaluation(), scores),
            with_scores(evaluation(variant="pausept_pauseft"), better),
            evaluation(variant="pausept_stdft", value=0.4),
        )
    )
    found = {row[0].text: [cell.text for cell in row[3:]] for row in table.rows}
    assert found["PausePT_StdFT"] == ["–"] * 3  # noqa: RUF001
    low, _, high = found["PausePT_PauseFT"][0].partition(" to ")
    assert (low[0], high[0]) == ("+", "+")
    assert found["PausePT_PauseFT"][1:] == ["–", "<0.002"]  # noqa: RUF001


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
    assert "PausePT_PauseFT 83.0 ± 1.7" in figure.alt
    assert ">chance level<" in figure.picture.element
    assert figure.picture.png.startswith(b"\x89PNG")


def test_bars_of_length_zero_are_drawn() -> None:
    (figure,) = bar_figures(grouped(evaluation("gsm8k", value=0.0, stderr=0.0)))
    assert ">0.0 ± 0.0<" in figure.picture.element
    assert ">chance level<" not in figure.picture.element


def test_a_figure_offers_its_files_as_data_urls() -> None:
    (figure,) = bar_figures(grouped(*variants(tasks=("parity",))))
    files = {name: base64.b64decode(address.partition("base64,")[2]) for name, address in figure.downloads.items()}
    assert sorted(files) == ["variants-parity.csv", "variants-parity.svg"]
    assert files["variants-parity.csv"].decode() == figure.data
    assert ElementTree.fromstring(files["variants-parity.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
