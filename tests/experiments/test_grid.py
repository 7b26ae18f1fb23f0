"""A small grid runs for real: it is stopped, killed, resumed, repeated and extended.

Long because its tests share the same real grids, which take longest.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pause_megatron.atomic import temporary_name, write_json
from pause_megatron.config.experiments import GridConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.errors import EXIT_DONE, EXIT_REQUEUE, EXIT_USER, UserError
from pause_megatron.experiments.grid import owned_folder, run_grid
from pause_megatron.experiments.grid_local import _Running, _Scheduler, least_used
from pause_megatron.experiments.job import job_states

from .grids import jobs_of, write_grid

RUN: dict[str, Any] = {
    "num_pauses_ft": [3],
    "num_pauses_inf": ["same", 0],
    "seeds": [0, 1],
    "finetune": {"steps": 200, "batch_size": 8, "warmup_steps": 2, "learning_rate": 1e-3, "save_interval": 10},
    "evaluate": {"batch_size": 8},
}
"""A grid of two finetunings, each evaluated with 3 and with 0 pauses."""


KILL_AT_RENAME = Path(__file__).with_name("kill_at_rename")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""So small a model is slower on several threads, and much slower if they share a core."""


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
    deadline = time.monotonic() + 600
    while not list((output / "finetune" / "parity").glob(f".{run_name}.work/*/manifest.json")):
        assert process.poll() is None, "ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    send(process.pid)
    code = process.wait(120)
    assert not (output / "finetune" / "parity" / run_name).exists(), "was too fast to be interrupted"
    return code


@pytest.fixture(scope="module")
def grid_file(model_path: Callable[[str], Path], parity_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    return write_grid(folder, models={"tiny": str(model_path("gpt2"))}, tasks={"parity": str(parity_data)}, **RUN)


@pytest.fixture(scope="module")
def failing(grid_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished grid of few steps, with one more task, which has no training data and fails; and its output."""
    folder = tmp_path_factory.mktemp("failing")
    keys = yaml.safe_load(grid_file.read_text())
    keys["finetune"]["steps"] = 4
    broken = folder / "lookup"
    broken.mkdir()
    (broken / "test.jsonl").write_text('{"question": "1:", "answer": "1"}\n')
    tasks = {"lookup": str(broken), **keys["tasks"]}
    file = write_grid(folder, **{**keys, "seeds": [0], "tasks": tasks})
    done = run(file, folder / "out", "--jobs", "2")
    assert done.returncode == EXIT_USER, done.stderr
    return folder / "out", done.stderr


@pytest.fixture(scope="module")
def undisturbed(grid_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(grid_file, output, "--jobs", "2")
    assert done.returncode == EXIT_DONE, done.stderr
    return output


def kill_grid_before_its_job(pid: int, folder: Path) -> None:
    """Kill the grid, and then its job: the folder must stay locked in between."""
    grid = psutil.Process(pid)
    [job] = grid.children()
    job.suspend()
    grid.kill()
    while grid.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with open(folder / ".lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    job.kill()


@pytest.fixture(scope="module")
def interrupted(grid_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same grid, asked to stop in its first finetuning and killed in its second, then finished."""
    output = tmp_path_factory.mktemp("interrupted") / "out"
    first, second = "tiny-ft3-seed0", "tiny-ft3-seed1"
    code = interrupt_while_finetuning(grid_file, output, first, lambda pid: os.kill(pid, signal.SIGTERM))
    assert code == EXIT_REQUEUE
    code = interrupt_while_finetuning(grid_file, output, second, lambda pid: kill_grid_before_its_job(pid, output))
    assert code == -signal.SIGKILL
    done = run(grid_file, output)
    assert done.returncode == EXIT_DONE, done.stderr
    assert f"finetune-parity-{second}: done" in done.stderr
    assert first not in done.stderr  # that one was complete before the kill
    for name in (first, second):
        log = (output / "logs" / f"finetune-parity-{name}.log").read_text()
        assert "resuming the interrupted run at step" in log
    return output


def results(output: Path) -> dict[str, Any]:
    """Return metrics and samples by file."""
    files = sorted((output / "evaluate" / "parity").iterdir())
    return {file.name: {key: json.loads(file.read_text())[key] for key in ("metrics", "samples")} for file in files}


def test_results_are_complete(failing: tuple[Path, str]) -> None:
    output, _ = failing
    for pauses in (0, 3):
        result = json.loads((output / "evaluate" / "parity" / f"tiny-ft3-inf{pauses}-seed0.json").read_text())
        assert (result["num_pauses_ft"], result["num_pauses_inf"], result["seed"]) == (3, pauses, 0)
        assert result["num_samples"] == len(result["samples"]) == 20
        assert result["finetuning"]["steps"] == 4
    assert not list(output.rglob(".*.work"))
    assert not list(output.rglob(".*.tmp"))


def test_failed_job_is_listed_with_its_reason_and_the_others_finish(failing: tuple[Path, str]) -> None:
    output, said = failing
    assert len(results(output)) == 2
    [failed] = [line for line in said.splitlines() if line.startswith("failed: ")]
    name = "finetune-lookup-tiny-ft3-seed0"
    assert failed.startswith(f"failed: {name}: error: ")
    assert "train.jsonl: no such file" in failed
    assert failed.endswith(f"(exit code 2; log {output / 'logs' / name}.log)")
    assert f"not run: evaluate-lookup-tiny-ft3-seed0: needs {name}" in said
    assert said.splitlines()[-1].startswith("error: 1 of 4 jobs failed, 1 not run, 2 are done")


def test_jobs_are_counted(failing: tuple[Path, str]) -> None:
    _, said = failing
    counts = re.findall(r"^\[(\d)/4\] (\S+): (done in|failed after) \d+\.\d s", said, re.MULTILINE)
    assert [int(number) for number, *_ in counts][-1] == 4
    assert {outcome for _, _, outcome in counts} == {"done in", "failed after"}
    assert len(counts) == 3


def test_time_left_is_that_of_the_remaining_jobs_of_each_stage(grid_file: Path, tmp_path: Path) -> None:
    jobs = jobs_of(GridConfig(grid=str(grid_file), output=tmp_path / "out"))
    running, *waiting = [job for job in jobs if job.stage == "finetune"]
    scheduler = _Scheduler(
        waiting=[*waiting, *(job for job in jobs if job.stage == "evaluate")],
        done=set(),
        environment={},
        inherited=(),
        gpus=(),
        total=len(jobs),
        at_once=2,
        seconds={"finetune": [90.0, 110.0]},
    )
    process = subprocess.Popen(["true"], text=True)
    process.wait()
    scheduler.running[process] = _Running(job=running, started=time.monotonic() - 40.0, gpus=[])
    assert scheduler._seconds_left() is None, "no evaluation has ended yet"
    scheduler.seconds["evaluate"] = [10.0]
    expected = (60.0 + 100.0 * len(waiting) + 10.0 * (len(jobs) - 1 - len(waiting))) / 2
    assert scheduler._seconds_left() == pytest.approx(expected, abs=1.0)


@pytest.mark.slow
def test_interrupted_grid_ends_with_the_results_of_an_undisturbed_one(undisturbed: Path, interrupted: Path) -> None:
    expected = results(undisturbed)
    assert len(expected) == 4
    assert results(interrupted) == expected


@pytest.mark.slow
def test_grid_killed_at_many_moments_ends_with_the_results_of_an_undisturbed_one(
    grid_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """With its jobs, soon after one of them has written something; nothing remains of what they were writing."""
    output, draw, killed = tmp_path / "out", random.Random(2026), 0
    while killed < 20:
        before = written(output)
        process = subprocess.Popen(
            grid_command(grid_file, output, "--jobs", "2"),
            env=ONE_THREAD,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and written(output) == before:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.5))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    assert killed >= 10
    assert_rerun_ends_as(undisturbed, grid_file, output)


def assert_rerun_ends_as(undisturbed: Path, grid_file: Path, output: Path) -> None:
    done = run(grid_file, output, "--jobs", "2")
    assert done.returncode == EXIT_DONE, done.stderr
    assert results(output) == results(undisturbed)
    for kind in ("finetune", "evaluate"):
        names = [sorted(path.name for path in (folder / kind / "parity").iterdir()) for folder in (output, undisturbed)]
        assert names[0] == names[1]
    for path in (undisturbed / "finetune" / "parity").glob("*/m*"):
        assert path.read_bytes() == (output / path.relative_to(undisturbed)).read_bytes()


@pytest.mark.slow
def test_grid_killed_around_renames_ends_with_the_results_of_an_undisturbed_one(
    grid_file: Path, tmp_path: Path
) -> None:
    """With its jobs, just before and just after each kind of rename, in the order of an undisturbed run."""
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "out"
    kinds = list(dict.fromkeys(renames(grid_file, undisturbed, "")))
    assert "finetune/parity/tiny-ftN-seedN" in kinds
    assert "evaluate/parity/tiny-ftN-infN-seedN.json" in kinds
    for kind in kinds:
        for side in ("before", "after"):
            log = renames(grid_file, output, f"{kind} {side}")
            assert kind in log, (kind, side, log)
    assert_rerun_ends_as(undisturbed, grid_file, output)


def renames(grid_file: Path, output: Path, kill_at: str) -> list[str]:
    """Run the grid, killed with its jobs at ``kill_at`` if that is given; return the kinds of renames until then."""
    log = output.with_name("renames.log")
    log.unlink(missing_ok=True)
    hooked = {
        "PYTHONPATH": os.pathsep.join([str(KILL_AT_RENAME), *sys.path]),
        "RENAMES_BELOW": str(output),
        "RENAMES_LOG": str(log),
        "KILL_AT": kill_at,
    }
    done = subprocess.run(
        grid_command(grid_file, output, "--jobs", "2"),
        env={**ONE_THREAD, **hooked},
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if kill_at else EXIT_DONE), (kill_at, done.stderr)
    return log.read_text().splitlines()


def written(output: Path) -> set[Path]:
    """Return the paths of everything that jobs have written so far; os.walk() accepts that folders disappear."""
    walks = [os.walk(output / kind) for kind in ("finetune", "evaluate")]
    return {Path(path, name) for walk in walks for path, *names in walk for name in [*names[0], *names[1]]}


def test_only_missing_results_are_evaluated(interrupted: Path, grid_file: Path, tmp_path: Path) -> None:
    output = shutil.copytree(interrupted, tmp_path / "out")
    before = results(output)
    (output / "evaluate" / "parity" / "tiny-ft3-inf0-seed1.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*.json") if path.name != "grid.json"}
    keys = {**yaml.safe_load(grid_file.read_text()), "num_pauses_inf": ["same", 0, 1]}
    done = run(write_grid(tmp_path, **keys), output, "--jobs", "2")
    assert done.returncode == EXIT_DONE, done.stderr
    started = sorted(re.findall(r"\$ pause-megatron (\w+) .*--num-pauses-inf ([\d ]*\d)", done.stderr))
    assert started == [("evaluate", "0 1"), ("evaluate", "1")]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    after = results(output)
    assert {name: after[name] for name in before} == before
    assert len(after) == 6


@pytest.mark.slow
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
    assert "all 4 jobs were done before" in again.stderr
    assert made() == before


@pytest.mark.slow
def test_list_prints_states_and_runs_nothing(
    grid_file: Path, interrupted: Path, failing: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_grid(GridConfig(grid=str(grid_file), output=interrupted.parent / "new", list=True))
    assert capsys.readouterr().out.endswith("4 jobs: 0 done, 0 unfinished, 4 to do\n")
    assert not (interrupted.parent / "new").exists()
    run_grid(GridConfig(grid=str(grid_file), output=interrupted, list=True))
    assert capsys.readouterr().out.endswith("4 jobs: 4 done, 0 unfinished, 0 to do\n")
    output, _ = failing
    run_grid(GridConfig(grid=str(output.parent / "grid.yaml"), output=output, list=True))
    listed = capsys.readouterr().out
    assert listed.endswith("4 jobs: 2 done, 1 unfinished, 1 to do\n")
    assert "unfinished  pause-megatron finetune --model" in listed


def test_list_as_json(failing: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    output, _ = failing
    run_grid(GridConfig(grid=str(output.parent / "grid.yaml"), output=output, list=True, json=True))
    jobs = json.loads(capsys.readouterr().out)
    states = {job["name"]: job["state"] for job in jobs}
    assert sorted(states.values()) == ["done", "done", "to do", "unfinished"]
    assert states["finetune-lookup-tiny-ft3-seed0"] == "unfinished"
    for job in jobs:
        assert job["command"][:2] == ["pause-megatron", job["stage"]]
        assert set(job["needs"]) <= states.keys()
        assert all(Path(made).exists() for made in job["outputs"]) == (job["state"] == "done")
    with pytest.raises(UserError, match="--json: requires --list"):
        GridConfig(grid="smoke", output=output, json=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"finetune": {**RUN["finetune"], "steps": 201}},
            r"seed0/finetune.json: was made with steps 200, but the grid has 201 \(and 1 more",
        ),
        (
            {"evaluate": {"batch_size": 9}},
            r"evaluate/parity/.*\.json: was made with batch_size 8, but the grid has 9 \(and 3 more",
        ),
        ({"models": {"tiny": "elsewhere"}}, r"seed0/finetune.json: was made with model .*gpt2.*has .*elsewhere"),
    ],
)
def test_results_of_another_configuration_are_refused(
    change: dict[str, Any], message: str, grid_file: Path, interrupted: Path, tmp_path: Path
) -> None:
    keys = {**yaml.safe_load(grid_file.read_text()), **change}
    config = GridConfig(grid=str(write_grid(tmp_path, **keys)), output=interrupted, list=True)
    with pytest.raises(UserError, match=message):
        run_grid(config)


@pytest.mark.slow
def test_setting_newer_than_a_result_counts_as_its_default(grid_file: Path, tmp_path: Path) -> None:
    config = GridConfig(grid=str(grid_file), output=tmp_path / "out", list=True)
    job = jobs_of(config)[0]
    [output] = job.outputs
    recorded = to_flat(output)
    del recorded["clip_grad"]
    write_json(output.output / "finetune.json", {"config": recorded})
    assert job_states([job]) == {job.name: "done"}
    changed = dataclasses.replace(output, clip_grad=0.5)
    with pytest.raises(UserError, match=r"finetune\.json: was made with clip_grad 1\.0, but the grid has 0\.5"):
        job_states([dataclasses.replace(job, outputs=(changed,))])


@pytest.mark.slow
def test_grown_file_only_adds_work(
    grid_file: Path, interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {**yaml.safe_load(grid_file.read_text()), "num_pauses_inf": ["same", 0, 1], "seeds": [0, 1, 2]}
    run_grid(GridConfig(grid=str(write_grid(tmp_path, **keys)), output=interrupted, list=True))
    assert capsys.readouterr().out.endswith("6 jobs: 2 done, 2 unfinished, 2 to do\n")


def test_folder_belongs_to_one_grid_at_a_time(grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pause_megatron.locks.PATIENCE_SECONDS", 0.2)
    used, foreign = tmp_path / "used", tmp_path / "foreign"
    for folder in (used, foreign):
        folder.mkdir()
    with open(used / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another grid runs there"):
            run_grid(GridConfig(grid=str(grid_file), output=used))
    (foreign / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty and is not a grid folder"):
        run_grid(GridConfig(grid=str(grid_file), output=foreign))


def test_folder_of_a_grid_killed_while_it_wrote_its_first_file_is_its_own(tmp_path: Path) -> None:
    leftover = temporary_name(tmp_path / "grid.json")
    other = temporary_name(tmp_path / "tokenizer")
    for path in (leftover, other):
        path.touch()
    with owned_folder(tmp_path):
        assert not leftover.exists()
        assert other.exists(), "the job removes it"
    temporary_name(tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a grid folder"), owned_folder(tmp_path):
        pass


def test_jobs_are_spread_over_the_gpus() -> None:
    used: list[str] = []
    for _ in range(5):
        used += least_used(["3", "5"], used)
    assert used == ["3", "5", "3", "5", "3"]
    used.remove("5")
    assert least_used(["3", "5"], used) == ["5"]
    assert least_used(["3", "5", "7"], used, 2) == ["7", "5"], "one for each rank of a pretraining"
    assert least_used([], []) == [], "without GPUs the environment stays as it is"
