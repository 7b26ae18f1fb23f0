"""The grid: what a file expands to, what it refuses, and a small one run for real, killed, continued and repeated."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pause_megatron.atomic import write_json
from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.cli.main import parse
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.grid import GridConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import EXIT_DONE, EXIT_REQUEUE, EXIT_USER, UserError
from pause_megatron.experiments.grid import run_grid
from pause_megatron.experiments.grid_file import read_grid
from pause_megatron.experiments.grid_jobs import Job, grid_jobs, job_states
from tests.downstream.real_samples import FOLDERS

SMALL: dict[str, Any] = {
    "models": {"stdpt": "hf/stdpt", "pausept": "hf/pausept"},
    "tasks": {"parity": "tasks/parity"},
    "num_pauses_ft": [0, 10],
}
RUN: dict[str, Any] = {
    "num_pauses_ft": [3],
    "num_pauses_inf": ["same", 0],
    "seeds": [0, 1],
    "finetune": {"steps": 200, "batch_size": 8, "warmup_steps": 2, "learning_rate": 1e-3, "save_interval": 10},
    "evaluate": {"batch_size": 8},
}
"""A grid of two finetunings and four evaluations."""


def write_grid(folder: Path, **keys: Any) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    return path


def jobs_of(config: GridConfig) -> list[Job]:
    return grid_jobs(read_grid(config), config.output.absolute(), f"--grid {config.grid}")


def names_of(jobs: list[Job]) -> list[str]:
    return [job.name for job in jobs]


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
    assert [(config.pause_placement, config.pause_marker) for config in finetunings] == [
        *(("append", None), ("append", None), ("prepend", None), ("before-marker", "Answer:"))
    ]


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
    runs = {(config.num_pauses_ft, config.seed) for config in finetunings}
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
            r"--gradient-accumulation-steps 2 does not",
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


# A small grid, run


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""So small a model is slower on several threads, and much slower where they have to share a core."""


def grid_command(file: Path, output: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "pause_megatron", "grid", "--grid", str(file), "--output", str(output), *flags]


def run(file: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        grid_command(file, output, *flags), env=ONE_THREAD, capture_output=True, text=True, check=False
    )


def interrupt_while_finetuning(file: Path, output: Path, run_name: str, send: Callable[[int], None]) -> int:
    """Start the grid, ``send`` its process id somewhere once a run has saved a state, and return the exit code."""
    command = grid_command(file, output)
    process = subprocess.Popen(command, env=ONE_THREAD, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((output / "finetune" / "parity").glob(f".{run_name}.work/*/trainer_state.json")):
        assert process.poll() is None, "ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    send(process.pid)
    code = process.wait(30)
    assert not (output / "finetune" / "parity" / run_name).exists(), "was too fast to be interrupted"
    return code


@pytest.fixture(scope="module")
def grid_file(model_path: Callable[[str], Path], parity_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    return write_grid(folder, models={"tiny": str(model_path("gpt2"))}, tasks={"parity": str(parity_data)}, **RUN)


@pytest.fixture(scope="module")
def undisturbed(grid_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished grid that had one task more, whose data lack the training split; and what it said."""
    folder = tmp_path_factory.mktemp("undisturbed")
    keys = yaml.safe_load(grid_file.read_text())
    broken = folder / "lookup"
    broken.mkdir()
    (broken / "test.jsonl").write_text('{"question": "1:", "answer": "1"}\n')
    file = write_grid(folder, **{**keys, "tasks": {"lookup": str(broken), **keys["tasks"]}})
    done = run(file, folder / "out", "--jobs", "2")
    assert done.returncode == EXIT_USER, done.stderr
    return folder / "out", done.stderr


@pytest.fixture(scope="module")
def interrupted(grid_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same grid, asked to stop while it finetunes, killed with all its children later, then finished."""
    output = tmp_path_factory.mktemp("interrupted") / "out"
    first, second = "tiny-ft3-seed0", "tiny-ft3-seed1"
    code = interrupt_while_finetuning(grid_file, output, first, lambda pid: os.kill(pid, signal.SIGTERM))
    assert code == EXIT_REQUEUE
    code = interrupt_while_finetuning(grid_file, output, second, lambda pid: os.killpg(pid, signal.SIGKILL))
    assert code == -signal.SIGKILL
    done = run(grid_file, output)
    assert done.returncode == EXIT_DONE, done.stderr
    assert f"finetune-parity-{second}: done" in done.stderr
    assert first not in done.stderr  # that one was complete before the kill
    for name in (first, second):
        log = (output / "logs" / f"finetune-parity-{name}.log").read_text()
        assert "continuing the interrupted run at step" in log
    return output


def results(output: Path) -> dict[str, Any]:
    """What was measured, by file."""
    files = sorted((output / "evaluate" / "parity").iterdir())
    return {file.name: {key: json.loads(file.read_text())[key] for key in ("metrics", "samples")} for file in files}


def test_results_are_complete(undisturbed: tuple[Path, str]) -> None:
    output, _ = undisturbed
    for seed in (0, 1):
        for pauses in (0, 3):
            file = output / "evaluate" / "parity" / f"tiny-ft3-inf{pauses}-seed{seed}.json"
            result = json.loads(file.read_text())
            assert (result["num_pauses_ft"], result["num_pauses_inf"], result["seed"]) == (3, pauses, seed)
            assert result["num_samples"] == len(result["samples"]) == 20
            assert result["finetuning"]["steps"] == RUN["finetune"]["steps"]
    assert not list(output.rglob(".*.work"))
    assert not list(output.rglob(".*.tmp"))


def test_failed_job_is_listed_with_its_reason_and_the_others_finish(undisturbed: tuple[Path, str]) -> None:
    output, said = undisturbed
    assert len(results(output)) == 4
    failed = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    for seed, line in enumerate(failed):
        name = f"finetune-lookup-tiny-ft3-seed{seed}"
        assert line.startswith(f"failed: {name}: error: ")
        assert "train.jsonl: no such file" in line
        assert line.endswith(f"(exit code 2; log {output / 'logs' / name}.log)")
        assert f"not run: evaluate-lookup-tiny-ft3-inf0-seed{seed}: needs {name}" in said
    assert said.splitlines()[-1].startswith("error: 2 of 12 jobs failed, 4 not run, 6 are done")


def test_interrupted_grid_ends_with_the_results_of_an_undisturbed_one(
    undisturbed: tuple[Path, str], interrupted: Path
) -> None:
    expected = results(undisturbed[0])
    assert len(expected) == 4
    assert results(interrupted) == expected


def test_forks_give_the_results_of_commands_started_anew(
    grid_file: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    keys = {**yaml.safe_load(grid_file.read_text()), "seeds": [1], "num_pauses_inf": "same"}
    done = run(write_grid(tmp_path, **keys), tmp_path / "out", "--no-fork")
    assert done.returncode == EXIT_DONE, done.stderr
    name = "tiny-ft3-inf3-seed1.json"
    assert results(tmp_path / "out") == {name: results(undisturbed[0])[name]}


def test_finished_grid_does_nothing_twice(grid_file: Path, interrupted: Path) -> None:
    def made() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for folder in ("finetune", "evaluate", "logs")
            for path in (interrupted / folder).rglob("*")
        }

    before = made()
    again = run(grid_file, interrupted)
    assert again.returncode == EXIT_DONE
    assert "all 6 jobs were done before" in again.stderr
    assert made() == before


def test_list_prints_states_and_runs_nothing(
    grid_file: Path, interrupted: Path, undisturbed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_grid(GridConfig(grid=str(grid_file), output=interrupted.parent / "new", list=True))
    assert capsys.readouterr().out.endswith("6 jobs: 0 done, 0 unfinished, 6 to do\n")
    assert not (interrupted.parent / "new").exists()
    run_grid(GridConfig(grid=str(grid_file), output=interrupted, list=True))
    assert capsys.readouterr().out.endswith("6 jobs: 6 done, 0 unfinished, 0 to do\n")
    output, _ = undisturbed
    run_grid(GridConfig(grid=str(output.parent / "grid.yaml"), output=output, list=True))
    listed = capsys.readouterr().out
    assert listed.endswith("12 jobs: 6 done, 2 unfinished, 4 to do\n")
    assert "unfinished  pause-megatron finetune --model" in listed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"finetune": {**RUN["finetune"], "steps": 201}},
            r"seed0/finetune.json was made with steps 200, .* says 201 \(and",
        ),
        ({"evaluate": {"batch_size": 9}}, r"evaluate/parity/.*\.json was made with batch_size 8, the grid says 9"),
        ({"models": {"tiny": "elsewhere"}}, r"seed0/finetune.json was made with model .*gpt2.*says .*elsewhere"),
    ],
)
def test_results_of_another_configuration_are_refused(
    change: dict[str, Any], message: str, grid_file: Path, interrupted: Path, tmp_path: Path
) -> None:
    keys = {**yaml.safe_load(grid_file.read_text()), **change}
    config = GridConfig(grid=str(write_grid(tmp_path, **keys)), output=interrupted, list=True)
    with pytest.raises(UserError, match=message):
        run_grid(config)


def test_setting_newer_than_a_result_counts_as_its_default(grid_file: Path, tmp_path: Path) -> None:
    config = GridConfig(grid=str(grid_file), output=tmp_path / "out", list=True)
    job = jobs_of(config)[0]
    recorded = to_plain(job.config)
    del recorded["clip_grad"]
    write_json(job.record, {"config": recorded})
    assert job_states([job]) == {job.name: "done"}
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, clip_grad=0.5))
    with pytest.raises(UserError, match=r"finetune\.json was made with clip_grad 1\.0, the grid says 0\.5"):
        job_states([job])


def test_grown_file_only_adds_jobs(
    grid_file: Path, interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {**yaml.safe_load(grid_file.read_text()), "num_pauses_inf": ["same", 0, 1], "seeds": [0, 1, 2]}
    run_grid(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=interrupted, list=True))
    assert capsys.readouterr().out.endswith("12 jobs: 6 done, 0 unfinished, 6 to do\n")


def test_folder_is_one_grids_at_a_time(
    grid_file: Path, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr("pause_megatron.experiments.grid._LOCK_SECONDS", 0.2)
    config = GridConfig(grid=str(grid_file), output=interrupted)
    with open(interrupted / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another grid is at work there"):
            run_grid(config)
    run_grid(config)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds something else than a grid"):
        run_grid(GridConfig(grid=str(grid_file), output=tmp_path))
