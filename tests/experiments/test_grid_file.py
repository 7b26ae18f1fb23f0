"""What a grid file expands to, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.cli.main import parse
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid import run_grid
from pause_megatron.experiments.grid_file import read_grid
from tests.downstream.real_samples import FOLDERS

from .grids import jobs_of, names_of, write_grid

SMALL: dict[str, Any] = {
    "models": {"stdpt": "hf/stdpt", "pausept": "hf/pausept"},
    "tasks": {"parity": "tasks/parity"},
    "num_pauses_ft": [0, 10],
}

# What a file means


def test_file_becomes_commands_each_after_what_it_needs(tmp_path: Path) -> None:
    keys = {**SMALL, "num_pauses_inf": ["same", 0, 25], "seeds": [3, 4]}
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    assert len(jobs) == 2 * 2 * (1 + 2) + 2 * 2 * (1 + 3)  # without pauses, "same" is 0
    assert names_of(jobs)[:4] == [
        "finetune-parity-stdpt-ft0-seed3",
        "evaluate-parity-stdpt-ft0-inf0-seed3",
        "evaluate-parity-stdpt-ft0-inf25-seed3",
        "finetune-parity-stdpt-ft10-seed3",
    ]
    assert all(need in names_of(jobs[:index]) for index, job in enumerate(jobs) for need in job.needs)
    assert len({job.product for job in jobs}) == len({job.log for job in jobs}) == len(jobs)


def test_command_lines_say_what_the_configurations_say(tmp_path: Path) -> None:
    task = {
        "data": "tasks/parity",
        "halve_evaluation": True,
        "finetune": {"preset": "tiny", "steps": 7, "learning_rate": "1e-6"},
        "evaluate": {"limit": 5},
    }
    keys = {**SMALL, "tasks": {"parity": task}, "finetune": {"steps": 9, "clip_grad": 0.5}, "evaluate": {"limit": None}}
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    for job in jobs:
        command, *flags = job.action[2:]
        assert parse(SUBCOMMANDS[command].config_class(), command, flags) == job.config
    finetune, evaluate = jobs[0].config, jobs[1].config
    assert isinstance(finetune, FinetuneConfig)
    assert (finetune.steps, finetune.learning_rate, finetune.clip_grad) == (7, 1e-6, 0.5)
    assert (finetune.schedule, finetune.halve_evaluation) == ("cosine", True)
    assert evaluate.limit == 5
    assert evaluate.model == finetune.output


def test_placements_and_fillers_are_jobs_of_their_own(tmp_path: Path) -> None:
    keys = {
        **SMALL,
        "tasks": {"parity": None},
        "models": {"stdpt": "hf/stdpt"},
        "num_pauses_ft": [0, 10],
        "num_pauses_inf": ["same", 4],
        "pause_placements": ["append", "prepend", "before-marker"],
        "fillers": [".", "a/b"],
        "finetune": {"pause_marker": "Answer:"},
    }
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    assert names_of(jobs) == [
        "finetune-parity-stdpt-ft0-seed0",
        *(f"evaluate-parity-stdpt-ft0-{end}-seed0" for end in ("inf0", "inf4", "inf4-filler.", "inf4-fillera%2Fb")),
        "finetune-parity-stdpt-ft10-seed0",
        *(f"evaluate-parity-stdpt-ft10-{end}-seed0" for end in ("inf10", "inf4")),
        "finetune-parity-stdpt-ft10-prepend-seed0",
        *(f"evaluate-parity-stdpt-ft10-prepend-{end}-seed0" for end in ("inf10", "inf4")),
        "finetune-parity-stdpt-ft10-before-marker-seed0",
        *(f"evaluate-parity-stdpt-ft10-before-marker-{end}-seed0" for end in ("inf10", "inf4")),
    ]
    assert len({job.product for job in jobs}) == len(jobs)
    for job in jobs:
        command, *flags = job.action[2:]
        assert parse(SUBCOMMANDS[command].config_class(), command, flags) == job.config
    finetunings = [job.config for job in jobs if isinstance(job.config, FinetuneConfig)]
    assert [(config.pausing.pause_placement, config.pausing.pause_marker) for config in finetunings] == [
        *(("append", None), ("append", None), ("prepend", None), ("before-marker", "Answer:"))
    ]


def test_a_range_of_pauses_is_one_finetuning(tmp_path: Path) -> None:
    keys = {**SMALL, "models": {"stdpt": "hf/stdpt"}, "num_pauses_ft": [0, "0..50"], "num_pauses_inf": ["same", 0]}
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    assert names_of(jobs) == [
        *("finetune-parity-stdpt-ft0-seed0", "evaluate-parity-stdpt-ft0-inf0-seed0"),
        *("finetune-parity-stdpt-ft0..50-seed0", "evaluate-parity-stdpt-ft0..50-inf50-seed0"),
        "evaluate-parity-stdpt-ft0..50-inf0-seed0",
    ]
    assert "0..50" in jobs[2].action
    with pytest.raises(UserError, match=r"grid\.yaml: tasks: parity: --num-pauses-ft 9\.\.1: give a number"):
        keys["num_pauses_ft"] = ["9..1"]
        jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))


def test_ablations_go_with_the_papers_grid_in_one_folder(tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    grids = {
        name: jobs_of(GridConfig(grid=name, models=("stdpt=hf/stdpt",), data=tmp_path, output=tmp_path / "out"))
        for name in ("paper-1b", "paper-1b-pauses", "paper-1b-placement")
    }
    main, pauses, placement = ({job.product: job for job in jobs} for jobs in grids.values())
    shared = main.keys() & pauses.keys()
    assert len(shared) == 2 * 3 * 3 * 5  # three tasks without pauses, with 10 and with 50
    assert all(main[product].config == pauses[product].config for product in shared)
    assert len(pauses) == 3 * 5 * ((1 + 6 + 5) + 4 * (1 + 6))  # 5 fillers without pauses in finetuning
    assert not placement.keys() & (main.keys() | pauses.keys())
    assert len(placement) == 6 * 5 * 2 * 2


@pytest.mark.parametrize("name", ["paper-130m", "paper-1b", "smoke"])
def test_preset_is_the_nine_tasks(name: str, tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    models = ("stdpt=hf/stdpt", "pausept=hf/pausept")
    config = GridConfig(grid=name, models=models, data=tmp_path, output=tmp_path / "out")
    jobs = jobs_of(config)
    finetunings = [job.config for job in jobs if isinstance(job.config, FinetuneConfig)]
    assert {config.task: config.data for config in finetunings} == {
        task: tmp_path / folder for task, folder in FOLDERS.items()
    }
    assert len(jobs) == 2 * len(finetunings)  # as many pauses at inference as in finetuning
    runs = {(config.pausing.num_pauses_ft, config.seed) for config in finetunings}
    if name == "smoke":
        assert runs == {(0, 0), (2, 0)}
        assert {config.steps for config in finetunings} == {4}
        return
    assert runs == {(pauses, seed) for pauses in (0, 10, 50) for seed in range(5)}
    assert len(finetunings) == 9 * 2 * 3 * 5
    for config in finetunings:
        recipe = FinetuneConfig.PRESETS[f"{config.task}-{name.removeprefix('paper-')}"]
        assert {key: getattr(config, key) for key in recipe} == recipe


def test_command_line_replaces_a_files_models_and_data(tmp_path: Path) -> None:
    (tmp_path / "parity").mkdir()
    file = str(write_grid(tmp_path, **SMALL))
    grid = read_grid(GridConfig(grid=file, models=("other=x=y",), data=tmp_path, output=tmp_path / "out"))
    assert grid.models == {"other": Path("x=y").absolute()}
    assert grid.tasks["parity"].data == tmp_path / "parity"


# What it refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"unknown key 'seed'; known keys: .*seeds"),
        ({"models": None}, r"'models' names no model; .*--models NAME=FOLDER"),
        ({"models": {"a/b": "hf"}}, r"models: 'a/b' becomes part of file names"),
        ({"models": {"a": None}}, r"Expected `Path`, got `NoneType` - at `\$.models"),
        ({"tasks": {"rocket_science": None}}, r"tasks: unknown task 'rocket_science'; known tasks: .*parity"),
        ({"tasks": {"parity": {"folder": "x"}}}, r"tasks: parity: unknown key 'folder'"),
        ({"tasks": {"parity": {"finetune": {"stepz": 1}}}}, r"tasks: parity: finetune: unknown key 'stepz'"),
        ({"tasks": {}}, r"'tasks' names no task"),
        ({"num_pauses_ft": []}, r"'num_pauses_ft' is missing"),
        ({"num_pauses_inf": ["some"]}, r"at `\$.num_pauses_inf\[0\]`"),
        ({"num_pauses_ft": [-1]}, r"tasks: parity: --num-pauses-ft -1"),
        ({"seeds": ["one"]}, r"Expected `int`, got `str` - at `\$.seeds"),
        ({"seeds": []}, r"'seeds' is empty"),
        ({"finetune": {"preset": "huge"}}, r"finetune: preset: unknown preset 'huge'; known presets: .*tiny"),
        ({"finetune": {"steps": "many"}}, r"finetune: steps: Expected `int`"),
        ({"finetune": {"seed": 1}}, r"finetune: seed: the grid itself sets it"),
        (
            {"finetune": {"batch_size": 3, "gradient_accumulation_steps": 2}},
            r"--gradient-accumulation-steps 2: must divide --batch-size 3",
        ),
        ({"evaluate": {"preset": "tiny"}}, r"evaluate: unknown key 'preset'"),
        ({"evaluate": {"num_pauses_inf": 1}}, r"evaluate: num_pauses_inf: the grid itself sets it"),
    ],
)
def test_wrong_file_is_refused_by_file_and_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_grid(tmp_path, **{**SMALL, **change})
    with pytest.raises(UserError, match=message) as refused:
        jobs_of(GridConfig(grid=str(path), output=tmp_path / "out"))
    assert str(path) in str(refused.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(UserError, match=r"nowhere.yaml: No such file.*paper-130m"):
        read_grid(GridConfig(grid="nowhere.yaml", output=output))
    with pytest.raises(UserError, match="smoke: 'models' names no model"):
        read_grid(GridConfig(grid="smoke", output=output))
    with pytest.raises(UserError, match="smoke: give --data FOLDER"):
        read_grid(GridConfig(grid="smoke", models=("a=b",), output=output))
    with pytest.raises(UserError, match=r"--data .*: no folder 'gsm8k'"):
        read_grid(GridConfig(grid="smoke", models=("a=b",), data=tmp_path, output=output))
    with pytest.raises(UserError, match=r"models: stdpt: .* is no exported Hugging Face folder"):
        run_grid(GridConfig(grid=str(write_grid(tmp_path, **SMALL)), output=output))
    with pytest.raises(UserError, match="--models stdpt: expected NAME=FOLDER"):
        GridConfig(grid="smoke", models=("stdpt",), output=output)
    assert not output.exists()
