"""Tables of placements and fillers."""

from __future__ import annotations

from dataclasses import replace

from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.report.labels import setting_label
from pause_megatron.report.removals import find_removals
from pause_megatron.report.sections.placement import filler_table, placement_table

from ..inputs import ablations, evaluation, grouped, variants


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


def test_models_finetuned_with_fillers_or_repeated_tokens_are_settings_of_their_own() -> None:
    def finetuned(**inputs: str) -> list[EvaluationRecord]:
        records = [evaluation(variant="stdpt_pauseft", seed=seed) for seed in (1, 2)]
        trained = [replace(one, finetuning=replace(one.finetuning, **inputs)) for one in records if one.finetuning]
        return [replace(one, **inputs) for one in trained]

    counter = {"filler": "1 2 3 4 5 6 7 8 9 10 11 12"}
    with_pauses = [replace(one, filler=None) for one in finetuned(**counter)]
    tasks = grouped(*finetuned(), *finetuned(**counter), *finetuned(pause_inputs="repeat"), *with_pauses)
    [task] = tasks
    assert [setting_label(one.setting, tasks) for one in task.matched] == [
        "StdPT_PauseFT",
        "StdPT_PauseFT, the token before",
        "StdPT_PauseFT, filler '1 2 3 4 5 6 7 8 9 1…'",
    ]
    ((*_, kind, _),) = filler_table(tasks).rows
    assert kind.text == "10 x <pause>"


def test_a_model_with_pauses_before_unlikely_tokens_matches_its_finetuning_without_pauses() -> None:
    settings = {"variant": "stdpt_pauseft", "num_pauses_ft": 1, "placement_ft": "before-unlikely"}
    results = [evaluation(**settings, num_pauses_inf=number) for number in (0, 10)]
    tasks = grouped(*results, evaluation(variant="stdpt_pauseft"))
    [task] = tasks
    assert [setting_label(one.setting, tasks) for one in task.matched] == [
        "StdPT_PauseFT, M_ft 1, before unlikely tokens",
        "StdPT_PauseFT, M_ft 10",
    ]
    assert not find_removals(task)
