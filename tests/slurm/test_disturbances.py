"""A pretraining on two nodes is requeued, signalled and loses a node, and ends with the losses of an undisturbed run.

The job is the repository's script, submitted by a plain ``sbatch``; only Slurm and the script requeue it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from pause_megatron.log import read_json_lines
from tests.slurm.cluster import Cluster
from tests.slurm.guardian import processes_of
from tests.slurm.site import TINY, edit_env, make_site, prepare_data

STEPS = 60
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1", "--output=/dev/null")

Losses = dict[tuple[str, int], float]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Path:
    checkout = make_site(tmp_path_factory.mktemp("site"))
    edit_env(checkout, C4_VALIDATION="")
    prepare_data(checkout)
    return checkout


class Job:
    """One job of ``pretrain_130m.sh`` with a run folder of its own."""

    def __init__(self, cluster: Cluster, checkout: Path, name: str, *options: str, save_interval: int = 1000) -> None:
        self.cluster = cluster
        self.folder = checkout.parent / "work" / "runs" / name
        flags = [*TINY, "--train-iters", STEPS, "--save-interval", save_interval, "--output", self.folder]
        script = checkout / "slurm" / "pretrain_130m.sh"
        self.id = cluster.submit(*TWO_NODES, "--time=30", *options, script, "--", *flags, cwd=checkout)

    def records(self) -> list[dict[str, object]]:
        path = self.folder / "metrics.jsonl"
        return read_json_lines(path) if path.exists() else []

    def losses(self) -> Losses:
        """Return kind and iteration to the loss logged last."""
        return {(record["kind"], record["iteration"]): record["loss"] for record in self.records() if "loss" in record}

    def steps(self) -> list[int]:
        """Return the trained iterations in order."""
        return [record["iteration"] for record in self.records() if record["kind"] == "train"]

    def wait_for_step(self, step: int) -> None:
        self.cluster.wait_for(lambda: max(self.steps(), default=0) >= step, f"step {step} of job {self.id}", 240, 0.01)

    def wait(self) -> None:
        """Wait until it is done."""
        job = self.cluster.wait(self.id)
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), self.said()

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / "logs").glob("*.log")))

    def restarts(self) -> list[int]:
        """Return the restart counts that the run logged, one for each start."""
        starts = re.findall(rf"2 processes .*launched by slurm;.* Slurm job {self.id}(?:, restart (\d+))?", self.said())
        return [int(number or 0) for number in starts]


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, checkout: Path) -> Losses:
    job = Job(cluster, checkout, "undisturbed")
    job.wait()
    assert job.restarts() == [0]
    assert job.steps() == list(range(1, STEPS + 1))
    return job.losses()


@pytest.fixture(scope="module")
def limited(cluster: Cluster, checkout: Path, undisturbed: Losses) -> Iterator[tuple[Job, Future[None]]]:
    """A job that reaches its time limit of two minutes: its processes are stopped from step 10 until Slurm warns it.

    The two minutes pass while other tests run.
    """
    job = Job(cluster, checkout, "limited", "--time=2", "--signal=B:USR1@15")
    job.wait_for_step(10)
    signal_tasks(job, signal.SIGSTOP)

    def go_on_when_warned() -> None:
        cluster.wait_for(lambda: "warned by Slurm" in job.said(), "the warning", 180)
        signal_tasks(job, signal.SIGCONT)

    with ThreadPoolExecutor(1) as pool:
        yield job, pool.submit(go_on_when_warned)


@pytest.mark.usefixtures("limited")
def test_requeued_by_an_administrator(cluster: Cluster, checkout: Path, undisturbed: Losses) -> None:
    job = Job(cluster, checkout, "requeued")
    job.wait_for_step(10)
    cluster.ask("scontrol", "requeue", job.id)
    job.wait()
    assert job.restarts() == [0, 1], job.said()
    assert job.losses() == undisturbed


def test_signalled_it_saves_and_loses_no_step(cluster: Cluster, checkout: Path, undisturbed: Losses) -> None:
    job = Job(cluster, checkout, "signalled")
    job.wait_for_step(10)
    cluster.ask("scancel", "--signal=USR1", "--batch", job.id)
    job.wait()
    assert job.restarts() == [0, 1], job.said()
    assert job.steps() == list(range(1, STEPS + 1))  # although it never reached its save interval
    assert job.losses() == undisturbed


def test_time_limit(limited: tuple[Job, Future[None]], undisturbed: Losses) -> None:
    job, continued = limited
    continued.result()
    job.wait()
    assert job.restarts() == [0, 1], job.said()
    assert job.steps() == list(range(1, STEPS + 1))
    assert job.losses() == undisturbed


def test_a_lost_node(cluster: Cluster, checkout: Path, undisturbed: Losses) -> None:
    """The node of the batch script, so that only Slurm can requeue the job."""
    job = Job(cluster, checkout, "lost-node", save_interval=5)
    job.wait_for_step(15)
    cluster.lose("n1")
    try:  # Slurm takes half a minute to notice, and longer where the machine is busy
        cluster.wait_for(lambda: is_restarted(job), f"restart of job {job.id}", 240)
    finally:
        cluster.start("n1")
    job.wait()
    assert job.restarts() == [0, 1], job.said()
    assert job.losses() == undisturbed


def is_restarted(job: Job) -> bool:
    """Return whether Slurm has requeued the job; fail if it has ended instead."""
    found = job.cluster.job(job.id)
    assert found["JobState"] not in ("COMPLETED", "FAILED", "CANCELLED"), (found, job.said())
    return int(found["Restarts"]) == 1


def signal_tasks(job: Job, number: signal.Signals) -> None:
    """Send a signal to the Python processes of a job."""
    for process in processes_of(job.cluster.folder):
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if words[1:4] == [b"-m", b"pause_megatron", b"pretrain"] and bytes(job.folder) in words:
                os.kill(process, number)


def test_a_job_without_progress_is_not_requeued_forever(cluster: Cluster, checkout: Path) -> None:
    """Its processes are killed at its first step after every start, as with too little memory."""
    job = Job(cluster, checkout, "hopeless")
    deadline = time.monotonic() + 180
    while cluster.state(job.id) != "FAILED":
        assert time.monotonic() < deadline, job.said()
        signal_tasks(job, signal.SIGKILL)
        cluster.hurry(job.id)
        time.sleep(0.2)
    assert "requeued 3 times, still at checkpoint none: giving up" in job.said()
    assert int(cluster.job(job.id)["Restarts"]) == 3
