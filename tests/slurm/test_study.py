"""A study of two strategies, rates, pretraining seeds and tasks: killed here and on Slurm, with the same report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.errors import EXIT_DONE
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from tests.experiments.grids import write_grid
from tests.experiments.test_study import MODEL, TRAIN
from tests.slurm.cluster import Cluster

MODELS = {
    "plain": {"pauses": "none"},
    "tenth": {"pauses": "sequence", "pause_rate": 0.1},
    "fifth": {"pauses": "sequence", "pause_rate": 0.2},
    "every": {"pauses": "every", "pauses_per_token": 1},
}
JOBS = 1 + 5 + 5 + 2 * 4 * 2 + 2 * 2 * 4 * 2 + 1
"""Tokenizer, both splits with their checks, pretraining and exports, finetuning and evaluation, report."""
STEPS, SAVED = 300, 50
"""Steps of pretraining, and between its checkpoints: after the first one, there is time to kill a job."""
MINUTES = 60.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the file of the study, its text and its tasks."""
    folder = tmp_path_factory.mktemp("study")
    write_pydoc_corpus(folder / "corpus", train_shards=2)
    for task in ("parity", "lookup"):
        write_task(task, folder / task, seed=0, train=40, test=8)
    pretrain: dict[str, Any] = {
        "text": str(folder / "corpus" / "*train*"),
        "validation_text": str(folder / "corpus" / "*validation*"),
        "tokenizer": {"vocab_size": 512},
        "preprocess": {"seq_length": 64, "engine": "serial"},
        "models": MODELS,
        "sizes": {"tiny": MODEL},
        "seeds": [0, 1],
        "train": {**TRAIN, "train_iters": STEPS, "save_interval": SAVED, "log_interval": 10, "validation_sequences": 8},
    }
    write_grid(
        folder,
        pretrain=pretrain,
        tasks={task: str(folder / task) for task in ("parity", "lookup")},
        num_pauses_ft=[2],
        finetune={
            **{"steps": 4, "batch_size": 4, "warmup_steps": 1, "save_interval": 2, "prefix_attention": "causal"},
            "log_interval": 1,  # after a resume, the Trainer's mean loss leaves out the steps before it
        },
        evaluate={"limit": 8},
    )
    return folder


def command(site: Path, output: Path, *flags: object) -> list[str]:
    grid = ["grid", "--grid", site / "grid.yaml", "--output", output, *flags]
    return [sys.executable, "-m", "pause_megatron", *map(str, grid)]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def run_here(site: Path, output: Path) -> str:
    """Run the study on this machine; return what it says."""
    done = subprocess.run(
        command(site, output, "--jobs", "2"), env=ONE_THREAD, capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_DONE, done.stderr[-3000:]
    return done.stderr


def kill_when(site: Path, output: Path, *patterns: str) -> None:
    """Start the study, and kill it with all its jobs when files of ``patterns`` exist."""
    process = subprocess.Popen(
        command(site, output, "--jobs", "2"), env=ONE_THREAD, start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: all(any(output.glob(pattern)) for pattern in patterns) or process.poll() is not None)
    assert process.poll() is None, "ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60 * MINUTES
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def iteration(step: int) -> str:
    return f"iter_{step:07d}"


def report(output: Path) -> list[str]:
    """The report's lines without folder and speed."""
    text = (output / "report" / "report.md").read_text(encoding="utf-8")
    lines = text.replace(str(output), "OUTPUT").splitlines()
    return [line for line in lines if not re.match(r"\| (Tokens per second|MFU|Peak memory)", line)]


def results(output: Path) -> dict[str, Any]:
    """Metrics, samples and pretraining of every result, by file."""
    files = {file: json.loads(file.read_text()) for file in (output / "evaluate").glob("*/*.json")}
    kept = ("metrics", "samples", "pretraining", "model_name", "seed")
    return {str(file.relative_to(output)): {key: content[key] for key in kept} for file, content in files.items()}


@pytest.fixture(scope="module")
def undisturbed(site: Path) -> Path:
    output = site / "undisturbed"
    assert f"{JOBS} of {JOBS} jobs to do" in run_here(site, output)
    return output


@pytest.mark.slow
def test_undisturbed_study_is_complete(undisturbed: Path) -> None:
    found = results(undisturbed)
    assert len(found) == 2 * 2 * 4
    assert {(one["model_name"], one["pretraining"]["seed"]) for one in found.values()} == {
        (model, seed) for model in MODELS for seed in (0, 1)
    }
    text = "\n".join(report(undisturbed))
    assert all(f"PausePT_PauseFT ({model})" in text for model in ("tenth", "fifth", "every"))


@pytest.mark.slow
def test_study_killed_twice_ends_with_the_same_report(site: Path, undisturbed: Path) -> None:
    output = site / "killed"
    kill_when(site, output, f"runs/fifth-pt0-tiny/checkpoints/{iteration(SAVED)}/manifest.json")
    kill_when(site, output, "finetune/parity/.tenth-pt1-tiny-ft2-seed0.work/*/manifest.json")
    said = run_here(site, output)
    assert "tokenizer: done" not in said  # that was done before
    assert results(output) == results(undisturbed)
    assert report(output) == report(undisturbed)
    assert f"all {JOBS} jobs were done before" in run_here(site, output)


@pytest.mark.slow
def test_study_killed_on_slurm_ends_with_the_same_report(cluster: Cluster, site: Path, undisturbed: Path) -> None:
    """A job is killed by SIGKILL and those that need it never start; the same command queues them again."""
    pytest.importorskip("submitit", reason="submitit is not installed: --executor slurm is not checked")
    output = site / "slurm"
    options = ("--executor", "slurm", "--slurm", "timeout_min=30", "slurm_additional_parameters={export: ALL}")

    def queue() -> str:
        done = cluster.run(*command(site, output, *options), environment={"OMP_NUM_THREADS": "1"}, timeout=600)
        assert done.returncode == EXIT_DONE, done.stderr[-3000:]
        return done.stderr

    assert f"{JOBS} of {JOBS} jobs queued" in queue()
    again = queue()
    assert f"0 of {JOBS} jobs queued" in again
    assert "report: in the queue as job" in again
    killed = json.loads((output / "slurm" / "queued.json").read_text())["pretrain-tenth-pt0-tiny"]
    folder = output / "runs" / "tenth-pt0-tiny" / "checkpoints"
    cluster.wait_for((folder / iteration(SAVED) / "manifest.json").exists, "a checkpoint", timeout=60 * MINUTES)
    cluster.run("scancel", "--signal=KILL", killed)
    cluster.wait_for(lambda: not cluster.ask("squeue", "--noheader"), "the end of all jobs", timeout=60 * MINUTES)
    assert not (folder / iteration(STEPS)).exists(), "ended before it was killed"
    assert not (output / "report").exists()
    said = queue()
    assert str(output / "hf" / "tenth-pt0-tiny") in said
    assert str(output / "hf" / "plain-pt0-tiny") not in said
    cluster.wait_for(lambda: not cluster.ask("squeue", "--noheader"), "the end of all jobs", timeout=60 * MINUTES)
    assert results(output) == results(undisturbed)
    assert report(output) == report(undisturbed)
    assert f"0 of {JOBS} jobs queued, {JOBS} done before" in queue()
