"""Figures and tables of diagnoses: the numbers of the record, also for more layers and pauses than a map can show."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.report import ReportConfig
from pause_megatron.errors import UserError
from pause_megatron.records.diagnosis import (
    AnswersRecord,
    AttentionRecord,
    DiagnosisRecord,
    EmbeddingRecord,
    LensRecord,
)
from pause_megatron.records.files import write_record
from pause_megatron.report.collect import read_diagnosis
from pause_megatron.report.elements import Figure
from pause_megatron.report.sections.diagnosis import diagnosis_section
from pause_megatron.report.write import write_report

LAYERS, HEADS = 24, 3


def lens(layer: int, pauses: int) -> LensRecord:
    shares = tuple((layer + pause / pauses) / (LAYERS + 1) for pause in range(pauses))
    return LensRecord(
        layer=layer,
        answer_share=shares,
        answer_log_probability=(-1.0,) * pauses,
        entropy=(0.5,) * pauses,
        top_token=("<b>",) * pauses,
        top_share=(1.0,) * pauses,
    )


def embedding(iteration: int | None, movement: float) -> EmbeddingRecord:
    return EmbeddingRecord(
        iteration=iteration,
        norm=1.25,
        norm_of_text=2.5,
        movement=movement,
        cosine_with_first=0.5,
        cosine_with_mean=-0.25,
        nearest=("▁the", "<b>", "."),
        nearest_cosine=(0.75, 0.5, 0.25),
    )


def diagnosis(pauses: int = 20, numbers: tuple[int, ...] = (0, 20)) -> DiagnosisRecord:
    """A made-up diagnosis: head 2 of layer 7 attends to pauses most."""
    heads = tuple(tuple(0.9 if (layer, head) == (6, 1) else 0.1 for head in range(HEADS)) for layer in range(LAYERS))
    nothing = ((0.0,) * HEADS,) * LAYERS
    return DiagnosisRecord(
        model="finetune/parity/pausept-ft20-seed0",
        task="parity",
        num_pauses=pauses,
        num_pauses_ft=pauses,
        prefix_attention="causal",
        num_prompts=50,
        attention=(
            AttentionRecord(queries="answer", keys="pauses", uniform=0.4, heads=heads),
            AttentionRecord(queries="prompt", keys="pauses", uniform=0.0, heads=nothing),
        ),
        lens=tuple(lens(layer, pauses) for layer in range(LAYERS + 1)),
        answers=tuple(
            AnswersRecord(num_pauses=number, correct=number / 20, log_probability=-1.0, same_first_token=0.5)
            for number in numbers
        ),
        embedding=(embedding(100, 0.0), embedding(200, 0.75), embedding(None, 1.5)),
        config={},
        versions={},
        device="cpu",
        seconds=1.0,
    )


def by_kind(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {figure.name.partition("-finetune")[0].partition("-parity")[0]: figure for figure in figures}


def rows_of(figure: Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(figure.data)))


def test_attention_is_drawn_where_queries_can_see_keys() -> None:
    section = diagnosis_section([diagnosis()])
    figures = by_kind(section.figures)
    assert list(figures) == ["attention-answer-pauses", "lens", "lens-constancy", "answers", "pause-embedding"]
    rows = rows_of(figures["attention-answer-pauses"])
    assert len(rows) == LAYERS * HEADS
    assert [row for row in rows if float(row["share"]) > 0.5] == [{"layer": "7", "head": "2", "share": "0.9"}]
    assert "Uniform attention would give 40%" in figures["attention-answer-pauses"].caption
    cells = [cell.text for cell in section.tables[0].rows[0]]
    assert cells[1:] == ["answer → pauses", "11.1", "40.0", "90.0", "layer 7, head 2"]


def test_a_large_map_shows_evenly_spaced_tiles_and_its_csv_has_all() -> None:
    figure = by_kind(diagnosis_section([diagnosis(pauses=50)]).figures)["lens"]
    assert len(rows_of(figure)) == (LAYERS + 1) * 50
    labels = figure.picture.svg.decode()
    for shown in (">1<", ">50<", ">0<", ">24<"):
        assert shown in labels


def test_the_answers_of_a_constant_model_are_shown_as_constant() -> None:
    constant = [replace(one, correct=0.57, top_token="0", top_share=1.0) for one in diagnosis().answers]
    figures = by_kind(diagnosis_section([replace(diagnosis(), answers=tuple(constant), best_constant=0.57)]).figures)
    rows = [row for row in rows_of(figures["answers"]) if row["series"] == "most frequent first token"]
    assert [row["prompts (%)"] for row in rows] == ["100.0", "100.0"]
    for name in ("answers", "lens"):
        assert "The best constant answer would be correct for 57% of the prompts." in figures[name].caption
    assert ">best constant answer<" in figures["answers"].picture.svg.decode()


def test_a_diagnosis_of_an_older_version_is_drawn_without_the_constant_answer() -> None:
    figures = by_kind(diagnosis_section([diagnosis()]).figures)
    assert {row["series"] for row in rows_of(figures["answers"])} == {"correct answer", "same first token"}
    assert "constant" not in figures["answers"].caption + figures["lens"].caption


def test_the_lens_shows_where_pauses_tell_prompts_apart() -> None:
    layers = tuple(replace(one, top_share=(0.5 + one.layer / 100,) * 20) for one in diagnosis().lens)
    figure = by_kind(diagnosis_section([replace(diagnosis(), lens=layers)]).figures)["lens-constancy"]
    assert {float(row["share"]) for row in rows_of(figure)} == {0.5 + layer / 100 for layer in range(LAYERS + 1)}


def test_maps_of_models_have_the_same_colours() -> None:
    """A map with equal tiles of 100 % is as light as the tiles of 100 % in another map."""

    def colors(share: float) -> Counter[str]:
        layers = tuple(replace(one, top_share=(share,) * 19 + (1.0,)) for one in diagnosis().lens)
        figure = by_kind(diagnosis_section([replace(diagnosis(), lens=layers)]).figures)["lens-constancy"]
        return Counter(re.findall(r'clip-path="[^"]*" style="fill: (#\w+)', figure.picture.svg.decode()))

    lightest, of_half = colors(1.0).most_common(1)[0][0], colors(0.5)
    assert lightest in of_half
    assert of_half.most_common(1)[0][0] != lightest


def test_answers_are_drawn_from_0_to_100_percent() -> None:
    answers = tuple(replace(one, correct=0.5, same_first_token=0.5) for one in diagnosis().answers)
    figure = by_kind(diagnosis_section([replace(diagnosis(), answers=answers)]).figures)["answers"]
    assert {">0<", ">100<"} <= set(re.findall(r">\d+<", figure.picture.svg.decode()))
    assert "stroke-dasharray" in figure.picture.svg.decode()


def test_neighbours_of_the_embedding_are_listed() -> None:
    row = diagnosis_section([diagnosis()]).tables[1].rows[0]
    assert [cell.text for cell in row][1:] == ["1.25", "2.50", "1.50", "-0.25", "▁the (0.75), <b> (0.50), . (0.25)"]


def test_one_number_of_pauses_makes_no_chart_of_answers() -> None:
    assert "answers" not in by_kind(diagnosis_section([diagnosis(numbers=(20,))]).figures)


def test_a_report_has_a_section_of_diagnoses_and_their_data(tmp_path: Path) -> None:
    write_record(tmp_path / "diagnosis.json", diagnosis())
    write_report(ReportConfig(diagnoses=(tmp_path / "diagnosis.json",), output=tmp_path / "report"))
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [section["heading"] for section in values["sections"]][-1] == "Diagnostics"
    assert values["diagnoses"][0]["attention"][0]["heads"][6][1] == 0.9
    page = (tmp_path / "report" / "report.html").read_text()
    assert 'id="diagnostics"' in page
    assert "<b>" not in page.split('id="diagnostics"')[1].split("</table>")[1]


@pytest.mark.parametrize(
    "change",
    [
        {"attention": (replace(diagnosis().attention[0], heads=((0.5, 0.5), (1.0,))),)},
        {"attention": (replace(diagnosis().attention[0], heads=()),)},
        {"lens": ()},
        {"num_pauses": 19},
        {"embedding": ()},
        {"answers": ()},
    ],
    ids=["ragged", "no layer", "no lens", "another number", "no embedding", "no answers"],
)
def test_incomplete_tables_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write_record(tmp_path / "diagnosis.json", replace(diagnosis(), **change))
    with pytest.raises(UserError, match=r"diagnosis\.json: its tables are not complete"):
        read_diagnosis(tmp_path / "diagnosis.json")
