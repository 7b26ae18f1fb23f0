"""Grids with tasks that do not come with this project: as files, by names in a folder, and of the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.cli.main import parse
from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import UserError
from tests.downstream.own_tasks import write_definitions

from .grids import jobs_of, names_of, write_grid

KEYS: dict[str, Any] = {"models": {"stdpt": "hf/stdpt"}, "num_pauses_ft": [2]}


def jobs_with(tmp_path: Path, **keys: Any) -> Any:
    return jobs_of(GridConfig(grid=str(write_grid(tmp_path, **KEYS, **keys)), output=tmp_path / "out"))


def test_names_and_files_become_tasks_of_the_commands(tmp_path: Path) -> None:
    place = write_definitions(tmp_path / "definitions")
    tasks = {
        str(place / "capital_choices.yaml"): None,
        "capital_likely": str(place / "quiz"),
        "harness:gsm8k": None,
        "arc_easy": None,
        "short": {"task": "capital_decoded", "evaluate": {"num_fewshot": 1}},
    }
    jobs = jobs_with(tmp_path, tasks=tasks, include_path=str(place))
    shown = ["capital_choices", "capital_likely", "harness-gsm8k", "arc_easy", "short"]
    assert names_of(jobs) == [f"{stage}-{name}-stdpt-ft2-seed0" for name in shown for stage in ("finetune", "evaluate")]
    given = [str(place / "capital_choices.yaml"), "capital_likely", "harness:gsm8k", "arc_easy", "capital_decoded"]
    for job, task in zip(jobs, [task for task in given for _ in range(2)], strict=True):
        command, *flags = job.arguments()
        config = parse(SUBCOMMANDS[command].config_class(), command, flags)
        assert (config.task, config.include_path) == (task, place)
        assert config.data == (place / "quiz" if task == "capital_likely" else None)
        if command == "evaluate":
            assert config.prompting.num_fewshot == (1 if task == "capital_decoded" else None)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tasks": {"absent.yaml": None}}, r"tasks: absent.yaml: no such file; correct the path"),
        ({"tasks": {"mmlu": None}}, r"tasks: mmlu: is a group; give one of its members: "),
        ({"tasks": {"parity": None}, "include_path": "absent"}, r"tasks: --include-path .*absent: no such folder"),
        ({"tasks": {"a b": {"task": "parity"}}}, r"tasks: 'a b' cannot be part of file names"),
    ],
)
def test_wrong_tasks_are_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        jobs_with(tmp_path, **keys)


def test_two_definitions_of_one_name_are_refused(tmp_path: Path) -> None:
    place = write_definitions(tmp_path / "definitions")
    tasks = {str(place / "capital_choices.yaml"): None, "capital_choices": None}
    with pytest.raises(UserError, match=r"tasks: two definitions have the name capital_choices"):
        jobs_with(tmp_path, tasks=tasks, include_path=str(place))
