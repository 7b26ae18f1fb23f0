"""Cost of pauses, and the larger model at the same cost."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from pause_megatron.report.sections.cost import PauseCost, cost_figures, cost_table

from ..inputs import PAPER_1B, SMALL, ablations, evaluation, grouped


def test_ten_pauses_after_a_hundred_tokens_cost_about_two_layers_of_the_papers_larger_model() -> None:
    """The example of its appendix I."""
    cost = PauseCost(shape=PAPER_1B, prompt_tokens=100.0, num_pauses=10)
    heads, width = 32 * 64, 2048

    def layer(tokens: int, layer_heads: int = heads) -> int:
        return 4 * tokens * layer_heads * width + 2 * tokens**2 * layer_heads + 8 * tokens * width**2

    assert cost.ratio == pytest.approx(layer(110) / layer(100))
    assert 2 < cost.equal_layers < 2.5
    more = (layer(110) - layer(100)) / (layer(100, heads + 64) - layer(100))
    assert cost.equal_heads == pytest.approx(more)
    assert replace(cost, num_pauses=0).equal_layers == 0


def test_the_cost_table_has_a_row_for_each_number_of_pauses() -> None:
    table = cost_table(grouped(*ablations()))
    assert [(row[0].text, row[2].text) for row in table.rows] == [("squad", "10"), ("squad", "50")]
    assert not cost_table(grouped(evaluation())).rows


def test_the_cost_chart_begins_at_1_without_pauses() -> None:
    (figure,) = cost_figures(grouped(*ablations()))
    assert "Cost of the prefix" in figure.alt
    assert [row["num_pauses_ft"] for row in csv.DictReader(io.StringIO(figure.data))] == ["0", "10", "50"] * 2
    assert cost_figures(grouped(evaluation(), evaluation(variant="pausept_pauseft"))) == []


def test_models_of_other_shapes_have_rows_of_their_own() -> None:
    deeper = replace(SMALL, num_layers=8)
    records = [evaluation("parity", "stdpt_pauseft", num_pauses_ft=10, num_pauses_inf=10)]
    records.append(replace(records[0], variant="pausept_pauseft", architecture=deeper))
    layers = [row[4].text for row in cost_table(grouped(*records)).rows]
    assert len(layers) == 2
    assert {text.partition("(")[2] for text in layers} == {"of 4)", "of 8)"}
