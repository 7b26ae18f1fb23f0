"""Section of repeated experiments, and that no verdict uses them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pause_megatron.config.report import ReportConfig
from pause_megatron.records.files import write_record
from pause_megatron.records.reproduction import ArmDifference, ArmRecord, Interval, ReproductionRecord
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
    write_record(tmp_path / "reproduction.json", RECORD)
    files = {}
    for name, experiments in (("with", (tmp_path / "reproduction.json",)), ("without", ())):
        write_report(ReportConfig(output=tmp_path / name, evaluations=results, reproductions=experiments))
        files[name] = json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8"))
    assert files["with"]["reproductions"][0]["arms"][0]["values"] == [1.0, 0.99]
    for key in ("lead", "verdicts", "without_pauses", "details", "caveats", "tasks"):
        assert files["with"][key] == files["without"][key]
    for page in ("report.html", "report.md"):
        assert "Published experiments, repeated" in (tmp_path / "with" / page).read_text(encoding="utf-8")
        assert "Published experiments, repeated" not in (tmp_path / "without" / page).read_text(encoding="utf-8")
