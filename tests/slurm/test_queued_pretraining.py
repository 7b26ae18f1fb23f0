"""A pretraining that a grid queued: two ranks on two nodes save together when Slurm warns of the time limit."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from pause_megatron.downstream.generated_tasks import write_task
from tests.chain import write_text_and_tokenizer
from tests.experiments.grids import write_grid
from tests.experiments.test_study import study
from tests.slurm.cluster import Cluster

STEPS = 400


@pytest.mark.slow
def test_pretraining_saves_and_is_requeued_before_its_time_is_over(cluster: Cluster, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: --executor slurm is not checked")
    write_text_and_tokenizer(tmp_path)
    write_task("parity", tmp_path / "parity", seed=0, train=40, test=8)
    keys = study(tmp_path)
    pretrain = keys["pretrain"]
    pretrain |= {"models": {"plain": {"pauses": "none"}}, "processes": 2}
    pretrain["train"] |= {"train_iters": STEPS, "save_interval": 10 * STEPS, "log_interval": 10, "micro_batch_size": 2}
    grid = ["--grid", write_grid(tmp_path, **keys), "--output", tmp_path / "out", "--executor", "slurm"]
    options = ("timeout_min=30", "pretrain.nodes=2", "pretrain.tasks_per_node=1")
    done = cluster.run(*(sys.executable, "-m", "pause_megatron", "grid", *grid, "--slurm", *options), timeout=600)
    assert done.returncode == 0, done.stderr
    job = json.loads((tmp_path / "out" / "slurm" / "queued.json").read_text())["pretrain-plain-pt5-tiny"]
    run = tmp_path / "out" / "runs" / "plain-pt5-tiny"
    log = tmp_path / "out" / "logs" / "pretrain-plain-pt5-tiny.log"

    metrics = run / "metrics.jsonl"
    cluster.wait_for(lambda: metrics.exists() and '"iteration"' in metrics.read_text(), "the first steps", timeout=1800)
    cluster.run("scancel", "--signal=USR2", job)
    assert cluster.wait(job, timeout=1800)["JobState"] == "COMPLETED"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    [resumed] = [line for line in lines if line["kind"] == "resumed"]
    assert 0 < resumed["iteration"] < STEPS  # saved when asked: the next save of its own is after the end
    assert lines[-1]["iteration"] == STEPS
    assert re.search(r"2 processes meeting .*launched by slurm.* restart 1", log.read_text())
    cluster.run("scancel", "--user=root")
