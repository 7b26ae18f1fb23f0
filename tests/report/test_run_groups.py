"""Groups of pretraining runs: which runs are repetitions, what they are called, and their mean curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.records.pretraining import DataFolderRecord
from pause_megatron.report.collect import PretrainRun, read_run
from pause_megatron.report.run_groups import group_runs, has_repetitions, mean_curve, own_text

from .inputs import write_run


def runs_of(folder: Path, *keys: tuple[str, int | None, int]) -> list[PretrainRun]:
    """Return a run for each model, seed and number of parameters; models that start with p have pauses."""
    found = []
    for number, (model, seed, parameters) in enumerate(keys):
        run = write_run(
            folder / str(number),
            paused=model.startswith("p"),
            name=f"{model}-{number}",
            model=model,
            seed=seed,
            parameters=parameters,
        )
        found.append(read_run(run))
    return found


@pytest.mark.parametrize(
    ("keys", "labels", "numbers"),
    [
        ([("std", 0, 10), ("p", 0, 10)], ["StdPT", "PausePT"], [1, 1]),
        ([("std", 0, 10), ("std", 1, 10), ("p", 1, 10), ("p", 0, 10)], ["StdPT", "PausePT"], [2, 2]),
        ([("p1", 0, 10), ("p1", 1, 10), ("p2", 0, 10)], ["PausePT p1", "PausePT p2"], [2, 1]),
        # sizes of one model are not seeds of it
        (
            [("std", 0, 10), ("std", 0, 2000), ("std", 1, 10), ("std", 1, 2000)],
            ["StdPT std (10)", "StdPT std (2k)"],
            [2, 2],
        ),
        # repeated and unknown seeds
        ([("std", 0, 10), ("std", 0, 10)], ["StdPT std-0", "StdPT std-1"], [1, 1]),
        ([("std", None, 10), ("std", 1, 10)], ["StdPT std-0", "StdPT std-1"], [1, 1]),
    ],
)
def test_runs_of_one_model_and_size_with_other_seeds_are_a_group(
    keys: list[tuple[str, int | None, int]], labels: list[str], numbers: list[int], tmp_path: Path
) -> None:
    groups = group_runs(runs_of(tmp_path, *keys))
    assert [group.label for group in groups] == labels
    assert [len(group.runs) for group in groups] == numbers
    assert len({group.name for group in groups}) == len(groups)
    assert has_repetitions(groups) == (max(numbers) > 1)


def test_runs_of_one_name_with_other_pauses_are_not_seeds_of_one_model(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, ("p", 0, 10), ("p", 1, 10), ("p", 2, 10))
    changes = ({"pause_rate": 0.2}, {"strategy": "every", "pauses_per_token": 1}, {})
    others = [
        replace(run, record=replace(run.record, dataset=replace(run.record.dataset, **change)))
        for run, change in zip(runs, changes, strict=True)
    ]
    groups = group_runs(others)
    assert [len(group.runs) for group in groups] == [1, 1, 1]
    assert [group.label for group in groups] == ["PausePT p-0", "PausePT p-1", "PausePT p-2"]
    # sizes that round to the same number, and runs of one name in two folders
    alike = runs_of(tmp_path / "alike", ("p", 0, 100_000_001), ("p", 1, 100_000_002))
    assert len({group.label for group in group_runs(alike)}) == 2
    same = [replace(run, record=replace(run.record, name="run", model_name=None, seed=None)) for run in alike]
    assert len({group.label for group in group_runs(same)}) == 2


def test_mean_curve_covers_what_all_curves_reach() -> None:
    first, second = ([0.0, 10.0, 20.0], [4.0, 2.0, 1.0]), ([5.0, 15.0], [3.0, 1.0])
    points, means = mean_curve([first, second])
    assert list(points) == [5.0, 10.0, 15.0]
    assert list(means) == pytest.approx([(3 + 3) / 2, (2 + 2) / 2, (1.5 + 1) / 2])
    assert mean_curve([first]) == first
    assert mean_curve([first, ([], [])]) == ((), ())
    assert list(mean_curve([first, ([30.0], [1.0])])[0]) == []


def test_own_text_has_the_pauses_of_the_training_text(tmp_path: Path) -> None:
    [standard, paused] = runs_of(tmp_path, ("std", 0, 10), ("p", 0, 10))
    assert (own_text(standard), own_text(paused)) == ("validation-standard", "validation-pause")
    # two held-out datasets of the same strategy: the name decides, and without it nothing does
    more = tuple(
        replace(record, dataset=f"validation-sequence-{rate}", pauses="sequence")
        for record in paused.validation[:2]
        for rate in (0.05, 0.1)
    )
    folder = DataFolderRecord(
        folder="data/train-sequence-0.1", weight=None, strategy="sequence", seed=0, samples=1, fingerprint="f"
    )
    several = replace(paused, validation=more)
    assert own_text(several) is None
    named = replace(several.record, dataset=replace(several.record.dataset, folders=(folder,)))
    assert own_text(replace(several, record=named)) == "validation-sequence-0.1"
