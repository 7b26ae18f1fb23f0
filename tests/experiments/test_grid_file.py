"""Expansion of grid files to jobs, and the errors of wrong files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.cli.main import parse
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid import run_grid
from pause_megatron.experiments.grid_file import read_grid
from pause_megatron.experiments.job import Job
from tests.downstream.real_samples import FOLDERS

from .grids import jobs_of, names_of, write_grid

SMALL: dict[str, Any] = {
    "models": {"stdpt": "hf/stdpt", "pausept": "hf/pausept"},
    "tasks": {"parity": "tasks/parity"},
    "num_pauses_ft": [0, 10],
}

# Expansion


def outputs_of(jobs: list[Job]) -> dict[Path, FinetuneConfig | EvaluateConfig]:
    return {config.output: config for job in jobs for config in job.outputs}


def parsed(job: Job) -> list[FinetuneConfig | EvaluateConfig]:
    """Parse the job's command line; return one configuration for each output."""
    command, *flags = job.arguments()
    config = parse(SUBCOMMANDS[command].config_class(), command, flags)
    return config.each_number() if isinstance(config, EvaluateConfig) else [config]


def test_file_becomes_commands_each_after_those_it_needs(tmp_path: Path) -> None:
    keys = {**SMALL, "num_pauses_inf": ["same", 0, 25], "seeds": [3, 4]}
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    assert names_of(jobs)[:4] == [
        "finetune-parity-stdpt-ft0-seed3",
        "evaluate-parity-stdpt-ft0-seed3",
        "finetune-parity-stdpt-ft10-seed3",
        "evaluate-parity-stdpt-ft10-seed3",
    ]
    assert len(set(names_of(jobs))) == len({job.log for job in jobs}) == len(jobs) == 2 * 2 * 2 * 2
    assert [config.output.name for config in jobs[1].outputs] == [  # without pauses, "same" is 0
        *("stdpt-ft0-inf0-seed3.json", "stdpt-ft0-inf25-seed3.json")
    ]
    assert [config.output.name for config in jobs[3].outputs] == [
        f"stdpt-ft10-inf{number}-seed3.json" for number in (10, 0, 25)
    ]
    assert all(need in names_of(jobs[:index]) for index, job in enumerate(jobs) for need in job.needs)
    assert len(outputs_of(jobs)) == 2 * 2 * (1 + 2) + 2 * 2 * (1 + 3)


def test_command_lines_parse_to_the_configurations(tmp_path: Path) -> None:
    task = {
        "data": "tasks/parity",
        "halve_evaluation": True,
        "finetune": {"preset": "tiny", "steps": 7, "learning_rate": "1e-6"},
        "evaluate": {"limit": 5},
    }
    keys = {**SMALL, "tasks": {"parity": task}, "finetune": {"steps": 9, "clip_grad": 0.5}, "evaluate": {"limit": None}}
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    for job in jobs:
        assert parsed(job) == list(job.outputs)
    finetune, evaluate = jobs[0].outputs[0], jobs[1].outputs[0]
    assert isinstance(finetune, FinetuneConfig)
    assert isinstance(evaluate, EvaluateConfig)
    assert (finetune.steps, finetune.learning_rate, finetune.clip_grad) == (7, 1e-6, 0.5)
    assert (finetune.schedule, finetune.halve_evaluation) == ("cosine", True)
    assert evaluate.limit == 5
    assert evaluate.model == finetune.output


def test_command_line_leaves_out_existing_results(tmp_path: Path) -> None:
    keys = {**SMALL, "num_pauses_inf": ["same", 0, 25]}
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    done, *missing = jobs[3].outputs
    done.output.parent.mkdir(parents=True)
    done.output.touch()
    assert parsed(jobs[3]) == missing


COUNTER = " ".join(map(str, range(1, 301)))
LONG = "-filler1%202%203%204%205%206%207%208%20-47153e31"
"""Part of the names of a long filler: its start, and a hash that tells it from others."""


def test_placements_and_fillers_have_jobs_of_their_own(tmp_path: Path) -> None:
    keys = {
        **SMALL,
        "tasks": {"parity": None},
        "models": {"stdpt": "hf/stdpt"},
        "num_pauses_ft": [0, 10],
        "num_pauses_inf": ["same", 4, 8],
        "pause_placements": ["append", "prepend", "before-marker", "after-marker", "before-unlikely"],
        "fillers": [".", "a/b", COUNTER],
        "finetune": {"pause_marker": "Answer:"},
    }
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    assert names_of(jobs) == [
        "finetune-parity-stdpt-ft0-seed0",
        *(f"evaluate-parity-stdpt-ft0{filler}-seed0" for filler in ("", "-filler.", "-fillera%2Fb", LONG)),
        *(
            f"{command}-parity-stdpt-ft10{placement}-seed0"
            for placement in ("", "-prepend", "-before-marker", "-after-marker", "-before-unlikely")
            for command in ("finetune", "evaluate")
        ),
    ]
    assert sorted(path.name for path in outputs_of(jobs) if path.suffix == ".json") == sorted(
        [
            *(f"stdpt-ft0-inf{number}-seed0.json" for number in (0, 4, 8)),
            *(
                f"stdpt-ft0-inf{number}{name}-seed0.json"
                for number in (4, 8)
                for name in ("-filler.", "-fillera%2Fb", LONG)
            ),
            *(
                f"stdpt-ft10{placement}-inf{number}-seed0.json"
                for placement in ("", "-prepend", "-before-marker", "-after-marker")
                for number in (10, 4, 8)
            ),
            *(f"stdpt-ft10-before-unlikely-inf{number}-seed0.json" for number in (0, 4, 8)),
        ]
    )
    for job in jobs:
        assert parsed(job) == list(job.outputs)
    finetunings = [config for config in outputs_of(jobs).values() if isinstance(config, FinetuneConfig)]
    assert [(config.pausing.pause_placement, config.pausing.pause_marker) for config in finetunings] == [
        *(("append", None), ("append", None), ("prepend", None)),
        *(("before-marker", "Answer:"), ("after-marker", "Answer:")),
        ("before-unlikely", None),
    ]


def test_hints_label_only_appended_pauses(tmp_path: Path) -> None:
    keys = {
        **SMALL,
        "tasks": {"parity": None},
        "models": {"stdpt": "hf/stdpt"},
        "num_pauses_ft": [0, 10],
        "pause_placements": ["append", "prepend"],
        "hint_weights": [0, 1, 0.5],
    }
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    finetunings = [job for job in jobs if job.command == "finetune"]
    assert {job.name: parsed(job)[0].pausing.hint_weight for job in finetunings} == {
        "finetune-parity-stdpt-ft0-seed0": 0,
        "finetune-parity-stdpt-ft10-seed0": 0,
        "finetune-parity-stdpt-ft10-hint1-seed0": 1,
        "finetune-parity-stdpt-ft10-hint0.5-seed0": 0.5,
        "finetune-parity-stdpt-ft10-prepend-seed0": 0,
    }
    assert len(outputs_of(jobs)) == 2 * len(finetunings), "no two jobs share an output"


def test_a_range_of_pauses_is_one_finetuning(tmp_path: Path) -> None:
    keys = {**SMALL, "models": {"stdpt": "hf/stdpt"}, "num_pauses_ft": [0, "0..50"], "num_pauses_inf": ["same", 0]}
    jobs = jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))
    assert [path.name for path in outputs_of(jobs)] == [
        *("stdpt-ft0-seed0", "stdpt-ft0-inf0-seed0.json", "stdpt-ft0..50-seed0"),
        *("stdpt-ft0..50-inf50-seed0.json", "stdpt-ft0..50-inf0-seed0.json"),
    ]
    assert "0..50" in jobs[2].arguments()
    with pytest.raises(UserError, match=r"grid\.yaml: tasks: parity: --num-pauses-ft 9\.\.1: give a number"):
        keys["num_pauses_ft"] = ["9..1"]
        jobs_of(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out"))


def test_ablations_share_a_folder_with_the_papers_grid(tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    grids = {
        name: jobs_of(GridConfig(grid=name, models=("stdpt=hf/stdpt",), data=tmp_path, output=tmp_path / "out"))
        for name in ("paper-1b", "paper-1b-pauses", "paper-1b-placement")
    }
    main, pauses, placement = map(outputs_of, grids.values())
    shared = main.keys() & pauses.keys()
    assert len(shared) == 2 * 3 * 3 * 5  # three tasks without pauses, with 10 and with 50
    assert all(main[path] == pauses[path] for path in shared)
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
    finetunings = [config for config in outputs_of(jobs).values() if isinstance(config, FinetuneConfig)]
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


def test_flags_replace_the_models_and_data_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "parity").mkdir()
    file = str(write_grid(tmp_path, **SMALL))
    grid = read_grid(GridConfig(grid=file, models=("other=x=y",), data=tmp_path, output=tmp_path / "out"))
    assert grid.models == {"other": Path("x=y").absolute()}
    assert grid.tasks["parity"].data == tmp_path / "parity"


def test_a_file_replaces_keys_of_the_grid_that_it_extends(tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    flags: dict[str, Any] = {"models": ("stdpt=hf/stdpt",), "data": tmp_path, "output": tmp_path / "out"}
    file = write_grid(tmp_path, extends="paper-130m", seeds=[7], num_pauses_ft=[0])
    grid, extended = (read_grid(GridConfig(grid=name, **flags)) for name in (str(file), "paper-130m"))
    assert (grid.seeds, grid.num_pauses_ft) == ((7,), (0,))
    assert grid.tasks == extended.tasks
    with pytest.raises(UserError, match=r"grid\.yaml: extends: unknown grid 'nowhere'; choose from .*paper-130m"):
        read_grid(GridConfig(grid=str(write_grid(tmp_path, extends="nowhere")), **flags))


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"unknown key 'seed'; did you mean 'seeds'"),
        ({"models": None}, r"'models' is empty; .*--models NAME=FOLDER"),
        ({"models": {"a/b": "hf"}}, r"models: 'a/b' cannot be part of file names"),
        ({"models": {"a": None}}, r"Expected `Path`, got `NoneType` - at `\$.models"),
        ({"tasks": {"rocket_science": None}}, r"tasks: rocket_science: unknown; tasks: .*parity"),
        ({"tasks": {"parity": {"folder": "x"}}}, r"tasks: parity: unknown key 'folder'"),
        ({"tasks": {"parity": {"finetune": {"stepz": 1}}}}, r"tasks: parity: finetune: unknown key 'stepz'"),
        ({"tasks": {}}, r"'tasks' is empty"),
        ({"num_pauses_ft": []}, r"'num_pauses_ft' is missing"),
        ({"num_pauses_inf": ["some"]}, r"at `\$.num_pauses_inf\[0\]`"),
        ({"num_pauses_ft": [-1]}, r"tasks: parity: --num-pauses-ft -1"),
        ({"seeds": ["one"]}, r"Expected `int`, got `str` - at `\$.seeds"),
        ({"seeds": []}, r"'seeds' is empty"),
        ({"finetune": {"preset": "huge"}}, r"finetune: preset: unknown preset 'huge'; choose from .*tiny"),
        ({"finetune": {"steps": "many"}}, r"finetune: steps: Expected `int`"),
        ({"finetune": {"seed": 1}}, r"finetune: seed: other keys of the grid set it"),
        (
            {"finetune": {"batch_size": 3, "gradient_accumulation_steps": 2}},
            r"--gradient-accumulation-steps 2: must divide --batch-size 3",
        ),
        ({"evaluate": {"preset": "tiny"}}, r"evaluate: unknown key 'preset'"),
        ({"evaluate": {"num_pauses_inf": 1}}, r"evaluate: num_pauses_inf: other keys of the grid set it"),
    ],
)
def test_wrong_file_is_refused_by_file_and_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_grid(tmp_path, **{**SMALL, **change})
    with pytest.raises(UserError, match=message) as refused:
        jobs_of(GridConfig(grid=str(path), output=tmp_path / "out"))
    assert str(path) in str(refused.value)


def test_missing_files_and_folders_are_errors(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(UserError, match=r"nowhere.yaml: No such file.*paper-130m"):
        read_grid(GridConfig(grid="nowhere.yaml", output=output))
    with pytest.raises(UserError, match="smoke: 'models' is empty"):
        read_grid(GridConfig(grid="smoke", output=output))
    with pytest.raises(UserError, match="smoke: needs data; give --data FOLDER"):
        read_grid(GridConfig(grid="smoke", models=("a=b",), output=output))
    with pytest.raises(UserError, match=r"--data .*: has no folder 'gsm8k'"):
        read_grid(GridConfig(grid="smoke", models=("a=b",), data=tmp_path, output=output))
    with pytest.raises(UserError, match=r"models: stdpt: hf/stdpt: no such folder"):
        run_grid(GridConfig(grid=str(write_grid(tmp_path, **SMALL)), output=output))
    with pytest.raises(UserError, match="--models a: is given twice; give each model a name of its own"):
        read_grid(GridConfig(grid="smoke", models=("a=b", "a=c"), data=tmp_path, output=output))
    with pytest.raises(UserError, match="--models stdpt: write it as NAME=FOLDER"):
        GridConfig(grid="smoke", models=("stdpt",), output=output)
    assert not output.exists()
