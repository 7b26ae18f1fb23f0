"""Jobs of a grid through submitit: run by its local executor, and as batch files for ``sbatch``."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid import run_grid
from pause_megatron.experiments.grid_slurm import parse_option

SBATCH = """#!/bin/sh
if [ -e "$0.full" ]; then echo "sbatch: error: AssocMaxSubmitJobLimit" >&2; exit 1; fi
n=$(($(cat "$0.count" 2>/dev/null || echo 100) + 1))
echo $n > "$0.count"
for file; do :; done
cp "$file" "$0.$n"
echo "Submitted batch job $n"
"""
"""Replacement for Slurm's program that keeps each batch file."""
SQUEUE = """#!/bin/sh
cat "$0.waiting"
"""


def options(executor: str = "slurm", *slurm: str) -> dict[str, object]:
    return {"executor": executor, "slurm": slurm}


@pytest.fixture
def grid_file(model_path: Callable[[str], Path], parity_data: Path, tmp_path: Path) -> Path:
    keys = {
        "models": {"tiny": str(model_path("gpt2"))},
        "tasks": {"parity": str(parity_data)},
        "num_pauses_ft": [2],
        "num_pauses_inf": ["same", 0],
        "finetune": {"steps": 200, "batch_size": 4, "warmup_steps": 0, "save_interval": 10},
        "evaluate": {"limit": 4},
    }
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def submitit() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: --executor slurm is not checked")


def test_missing_package_is_an_error(grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs the package submitit, .* run pip install 'pause_megatron\[slurm\]'"):
        run_grid(GridConfig(grid=str(grid_file), output=tmp_path / "out", **options()))


def test_options_of_slurm_need_slurm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--slurm: requires --executor slurm"):
        GridConfig(grid="smoke", output=tmp_path, **options("local", "timeout_min=1"))
    with pytest.raises(UserError, match="--jobs 2: not used with --executor slurm"):
        GridConfig(grid="smoke", output=tmp_path, jobs=2, **options())


def warn_all_processes(folder: Path) -> None:
    """Once the finetuning has saved a state, send the job's processes what Slurm sends before the end of the time."""
    deadline = time.monotonic() + 120
    while not list(folder.glob(".*.work/*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    [controller] = [child for child in psutil.Process().children() if "submitit" in " ".join(child.cmdline())]
    for process in reversed(controller.children(recursive=True)):  # the command before submitit: the worse order
        process.send_signal(signal.SIGUSR2)
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("submitit")
def test_jobs_run_through_submitit_and_continue_when_their_time_is_over(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "out"
    config = GridConfig(grid=str(grid_file), output=output, **options("slurm", "cluster=local", "timeout_min=5"))
    warned = threading.Thread(target=warn_all_processes, args=(output / "finetune" / "parity",))
    warned.start()
    run_grid(config)
    warned.join()
    assert "2 of 2 jobs queued" in capsys.readouterr().err
    log = (output / "logs" / "finetune-parity-tiny-ft2-seed0.log").read_text()
    assert "resuming the interrupted run at step" in log
    for number in (2, 0):
        result = json.loads((output / "evaluate" / "parity" / f"tiny-ft2-inf{number}-seed0.json").read_text())
        assert (result["num_samples"], result["num_pauses_ft"], result["num_pauses_inf"]) == (4, 2, number)
    run_grid(config)
    assert "0 of 2 jobs queued, 2 done before" in capsys.readouterr().err


@pytest.mark.usefixtures("submitit")
def test_unknown_option_is_refused(grid_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--slurm setup=\[: not YAML \("):
        run_grid(GridConfig(grid=str(grid_file), output=tmp_path / "o", **options("slurm", "setup=[")))
    with pytest.raises(UserError, match=r"--executor slurm: .*colour"):
        run_grid(
            GridConfig(grid=str(grid_file), output=tmp_path / "o", **options("slurm", "cluster=local", "colour=1"))
        )


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("slurm_time=90", (None, "timeout_min", 90)),
        ("slurm_time=1:30", (None, "timeout_min", 2)),
        ("slurm_time=24:00:00", (None, "timeout_min", 1440)),
        ("pretrain.slurm_time=2-12", ("pretrain", "timeout_min", 3600)),
        ("slurm_time=1-00:30:01", (None, "timeout_min", 1471)),
        ("pretrain.nodes=8", ("pretrain", "nodes", 8)),
        ("slurm_srun_args=['--mpi=none']", (None, "slurm_srun_args", ["--mpi=none"])),
    ],
)
def test_options_are_read_with_their_stage_and_times_in_minutes(option: str, expected: tuple[Any, ...]) -> None:
    assert parse_option(option) == expected


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"--slurm train.nodes=8: unknown stage 'train'; give one of .*pretrain"):
        parse_option("train.nodes=8")
    with pytest.raises(UserError, match="--slurm slurm_time=soon: not a time"):
        parse_option("slurm_time=soon")


@pytest.mark.usefixtures("submitit")
def test_slurm_jobs_wait_for_what_they_need_and_are_queued_once(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SBATCH), ("squeue", SQUEUE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "squeue.waiting").write_text("7\n101\n102\n")
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    config = GridConfig(
        grid=str(grid_file), output=tmp_path / "out", **options("slurm", "slurm_partition=gpu", "slurm_time=1:30:00")
    )
    run_grid(config)
    assert "2 of 2 jobs queued" in capsys.readouterr().err
    batches = {number: (programs / f"sbatch.{number}").read_text() for number in (101, 102)}
    assert all("#SBATCH --partition=gpu" in batch and "#SBATCH --time=90\n" in batch for batch in batches.values())
    assert "dependency" not in batches[101]
    assert "#SBATCH --dependency=afterok:101\n" in batches[102]
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in batches[102]
    names = [re.findall(r"#SBATCH --job-name=(\S+)", batch)[0] for batch in batches.values()]
    assert names == ["finetune-parity-tiny-ft2-seed0", "evaluate-parity-tiny-ft2-seed0"]
    run_grid(config)
    assert "0 of 2 jobs queued" in capsys.readouterr().err
    (programs / "squeue.waiting").write_text("7\n")
    (programs / "sbatch.full").touch()
    with pytest.raises(UserError, match=r"seed0 was not queued \(.*AssocMaxSubmitJobLimit.*\); run the same"):
        run_grid(config)
    (programs / "sbatch.full").unlink()
    run_grid(config)
    assert "2 of 2 jobs queued" in capsys.readouterr().err
    assert "--dependency=afterok:103\n" in (programs / "sbatch.104").read_text()
