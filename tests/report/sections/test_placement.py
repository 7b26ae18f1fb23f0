"""Tables of placements and fillers."""

from __future__ import annotations

from pause_megatron.report.sections.placement import filler_table, placement_table

from ..inputs import ablations, grouped, variants


def test_placements_and_fillers_are_compared_with_appended_pauses() -> None:
    tasks = grouped(*ablations())
    placements, fillers = placement_table(tasks), filler_table(tasks)
    assert placements.columns == ("Variant", "Task", "M_ft", "Appended", "Prepended")
    assert [row[0].text for row in placements.rows] == ["StdPT_PauseFT", "PausePT_PauseFT"]
    assert placements.rows[1][4].note == "−23.8 points"  # noqa: RUF001
    assert "not tested" in placements.caption
    ((name, *_, kind, score),) = fillers.rows
    assert (name.text, kind.text) == ("StdPT_StdFT", "10 x '.'")
    assert score.note.startswith("−")  # noqa: RUF001


def test_appended_pauses_only_give_neither_table() -> None:
    tasks = grouped(*variants())
    assert not placement_table(tasks).rows
    assert not filler_table(tasks).rows
