"""The private cluster works: two nodes, tasks on both, requeued jobs; and it ends with the tests."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import REPOSITORY, Cluster, why_not
from tests.slurm.guardian import processes_of


def test_two_nodes_run_two_tasks_each(cluster: Cluster) -> None:
    said = cluster.ask(
        *("srun", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2"),
        *("bash", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME $SLURM_LOCALID"),
    )
    assert sorted(said.splitlines()) == ["0 n1 0", "1 n1 1", "2 n2 0", "3 n2 1"]


def test_a_job_that_requeues_itself_runs_twice(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\necho run ${SLURM_RESTART_COUNT:-0}\n"
        '[ -n "$SLURM_RESTART_COUNT" ] || { scontrol requeue $SLURM_JOB_ID; sleep 60; }\n'
    )
    job = cluster.submit("--requeue", "--open-mode=append", f"--output={tmp_path}/log", script)
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    said = (tmp_path / "log").read_text().splitlines()
    assert [line for line in said if line.startswith("run")] == ["run 0", "run 1"]


HOLDER = """
import sys, time
from tests.slurm.cluster import Cluster
cluster = Cluster()
cluster.submit("--output=/dev/null", "--wrap=srun sleep 600")
cluster.wait_for(lambda: cluster.run("squeue", "--noheader", "--states=R").stdout != "", "the job", 30)
print(cluster.folder, flush=True)
time.sleep(600)
"""


def test_no_process_is_left_when_the_tests_are_killed() -> None:
    if reason := why_not():
        pytest.skip(f"Slurm was not checked: {reason}")
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout
            folder = Path(holder.stdout.readline().strip())
            assert happens(lambda: len(processes_of(folder)) > 6)  # daemons, the job's step and its task
        finally:
            holder.send_signal(signal.SIGKILL)
    assert happens(lambda: not folder.exists())
    assert happens(lambda: not processes_of(folder))  # the guardian removes the folder just before it exits


def happens(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Return whether ``condition`` holds within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()
