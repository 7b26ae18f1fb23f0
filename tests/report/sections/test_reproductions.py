"""Section of repeated experiments, and that no verdict uses them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pause_megatron.config.report import ReportConfig
from pause_megatron.records.files import write_record
from pause_megatron.records.reproduction import (
    ArmDifference,
    ArmRecord,
    Interval,
    ReproductionRecord,
    TextArmDifference,
    TextArmRecord,
    TextReproductionRecord,
)
from pause_megatron.report.sections.reproductions import reproductions_section
from pause_megatron.report.write import write_report

from ..inputs import variants, write_evaluations

HINTED = ArmRecord(
    name="pauses with labels",
    num_pauses=20,
    hint_weight=1.0,
    published="about 1.00",
    values=(1.0, 0.99),
    num_samples=1000,
    item_interval=Interval(0.99, 0.998),
    seed_interval=Interval(0.93, 1.06),
    steps=1000,
    tokens=2_750_000,
    seconds=61.4,
)
NONE = replace(HINTED, name="no pauses", num_pauses=0, hint_weight=0.0, published=".50", values=(0.5, 0.48))
RECORD = ReproductionRecord(
    name="parity-hints",
    title="Parity with labels",
    source="London & Kanade 2025 (arXiv 2505.21024)",
    published="Learned with labels.",
    metric="exact_match",
    chance=0.5,
    seeds=(0, 1),
    arms=(HINTED, NONE),
    differences=(
        ArmDifference(first="no pauses", second="pauses with labels", value=-0.505, interval=Interval(-0.57, -0.44)),
    ),
    deviations=("Fewer examples.",),
    parameters=60_288,
    device="CPU",
    settings={"task": "parity"},
    versions={"torch": "2.13.0"},
    seconds=300.0,
)

PLAIN = TextArmRecord(
    name="no pauses",
    num_pauses=0,
    pause_positions="shift",
    distinct=False,
    published="15.37",
    losses=(4.21, 4.19),
    loss=4.2,
    perplexity=66.69,
    seed_error=0.01,
    real_tokens=1_638_400,
    pause_tokens=0,
    flops=1_200_000_000_000,
    seconds=61.4,
)
PAUSED = replace(
    PLAIN, name="1 pause", num_pauses=1, published="14.92", losses=(4.11, 4.13), loss=4.12, pause_tokens=1_638_400
)
ON_TEXT = TextReproductionRecord(
    name="c4-every",
    title="Perplexity of C4",
    source="TG-Interpolation 2026",
    published="Better with one pause.",
    seeds=(0, 1),
    plain_loss=4.3456,
    plain_tokens=3_276_800,
    plain_seconds=120.5,
    held_out_targets=154_000,
    held_out_blocks=38,
    arms=(PLAIN, PAUSED),
    differences=(
        TextArmDifference(
            first="1 pause",
            second="no pauses",
            values=(-0.1, -0.06),
            value=-0.08,
            text_error=0.004,
            seed_error=0.02,
            interval=Interval(-0.31, 0.15),
        ),
    ),
    meaning="Little.",
    deviations=("A smaller model.",),
    parameters=229_824,
    device="CPU",
    settings={"kind": "text"},
    versions={"torch": "2.13.0"},
    seconds=900.0,
)


def test_losses_stand_next_to_their_published_results() -> None:
    arms, differences = reproductions_section([RECORD, ON_TEXT]).tables[2:]
    assert [[cell.text for cell in row] for row in arms.rows] == [
        ["no pauses", "4.2000", "4.2100, 4.1900", "66.69", "15.37", "1.64M", "1.20e+12", "61"],
        ["1 pause", "4.1200", "4.1100, 4.1300", "66.69", "14.92", "3.28M", "1.20e+12", "61"],
    ]
    for words in ("TG-Interpolation 2026", "Better with one pause.", "A smaller model.", "Little.", "4.3456"):
        assert words in arms.caption
    [row] = differences.rows
    assert [cell.text for cell in row] == [
        *("1 pause, minus no pauses", "−0.0800", "0.0040", "0.0200", "−0.3100 to +0.1500")  # noqa: RUF001
    ]


def test_unknown_errors_of_losses_are_named() -> None:
    alone = replace(ON_TEXT.differences[0], text_error=None, seed_error=None, interval=None)
    _, differences = reproductions_section([replace(ON_TEXT, differences=(alone,))]).tables
    assert [cell.text for cell in differences.rows[0]][2:] == ["unknown", "unknown", "unknown"]


def test_arms_stand_next_to_their_published_results() -> None:
    arms, differences = reproductions_section([RECORD]).tables
    assert [[cell.text for cell in row] for row in arms.rows] == [
        ["pauses with labels", "20", "99.5 (99.0 to 99.8)", "100.0, 99.0", "about 1.00", "2.75M", "61"],
        ["no pauses", "0", "49.0 (99.0 to 99.8)", "50.0, 48.0", ".50", "2.75M", "61"],
    ]
    for words in ("London & Kanade 2025", "Learned with labels.", "Fewer examples.", "2 seeds", "guessing gives 50 %"):
        assert words in arms.caption
    [row] = differences.rows
    assert [cell.text for cell in row][1:] == ["−50.5", "−57.0 to −44.0"]  # noqa: RUF001


def test_one_seed_has_no_interval_of_a_difference() -> None:
    alone = replace(RECORD, differences=(replace(RECORD.differences[0], interval=None),))
    _, differences = reproductions_section([alone]).tables
    assert differences.rows[0][2].text == "unknown"


def test_section_is_absent_without_experiments() -> None:
    assert not reproductions_section([])


def test_report_shows_an_experiment_and_keeps_its_verdicts(tmp_path: Path) -> None:
    results = tuple(write_evaluations(tmp_path / "results", variants(("parity",))))
    experiments = (tmp_path / "reproduction.json", tmp_path / "on_text.json")
    write_record(experiments[0], RECORD)
    write_record(experiments[1], ON_TEXT)
    files = {}
    for name, shown in (("with", experiments), ("without", ())):
        write_report(ReportConfig(output=tmp_path / name, evaluations=results, reproductions=shown))
        files[name] = json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8"))
    assert files["with"]["reproductions"][0]["arms"][0]["values"] == [1.0, 0.99]
    assert files["with"]["reproductions"][1]["arms"][1]["losses"] == [4.11, 4.13]
    for key in ("lead", "verdicts", "without_pauses", "details", "caveats", "tasks"):
        assert files["with"][key] == files["without"][key]
    for page in ("report.html", "report.md"):
        assert "Published experiments, repeated" in (tmp_path / "with" / page).read_text(encoding="utf-8")
        assert "Published experiments, repeated" not in (tmp_path / "without" / page).read_text(encoding="utf-8")
