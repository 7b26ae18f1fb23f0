"""A private Slurm cluster on this machine: one controller and two nodes, real except for their GPUs.

All its files are in one temporary folder with a short path, because the paths of sockets are limited in length; it has
ports of its own. It ends with the tests, even if those are killed (:mod:`tests.slurm.guardian`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pause_megatron.parallel.ports import free_port
from tests.slurm.daemons import NODES, write_configuration
from tests.slurm.guardian import processes_of

REPOSITORY = Path(__file__).parents[2]
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
_START_SECONDS = 60.0
_RESTART_SECONDS = 3
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


def why_not() -> str | None:
    """Return the reason why a private cluster cannot start on this machine; None if it can."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)} here; install slurm-wlm and munge (.ci/system_packages)"
    return None if os.geteuid() == 0 else "a private cluster is started as root only"


class Cluster:
    """A running cluster; :meth:`close` it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.folder.chmod(0o711)  # or munged refuses to have its socket there
        write_configuration(self.folder, [free_port() for _ in range(3)])
        self.environment = {**_outside_of_runs(os.environ), "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "tests.slurm.guardian", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            cwd=REPOSITORY,
            text=True,
            bufsize=1,
            start_new_session=True,  # Ctrl-C is for the tests, which then let go of it
        )
        try:
            self.start("munged")
            self.wait_for(lambda: (self.folder / "munge.socket").exists(), "munged to listen", _START_SECONDS)
            for name in ("slurmctld", *NODES):
                self.start(name)
            self.wait_for(self.is_idle, "the nodes to be idle", _START_SECONDS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all daemons, jobs and their processes, and remove the folder."""
        assert self._guardian.stdin
        self._guardian.stdin.close()
        self._guardian.wait()

    def start(self, name: str) -> None:
        """Start a daemon: ``munged``, ``slurmctld``, or a node's by its name."""
        self._tell(f"start {name}")

    def kill(self, name: str) -> None:
        """Kill a daemon by SIGKILL."""
        self._tell(f"kill {name}")

    def lose(self, node: str) -> None:
        """Simulate the loss of a node's power: SIGKILL to its ``slurmd``, its tasks and their step daemons.

        All are stopped first; otherwise the last ones would see the first ones die, and tell Slurm.
        """
        lost = set()
        for process in processes_of(self.folder):
            with suppress(OSError):
                entry = Path("/proc") / str(process)
                if f"SLURMD_NODENAME={node}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    lost.add(process)
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if b"slurmstepd" in (entry.with_name(str(parent)) / "cmdline").read_bytes():
                        lost.add(parent)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in lost:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            if number == signal.SIGSTOP:
                self.kill(node)

    def _tell(self, line: str) -> None:
        assert self._guardian.stdin
        assert self._guardian.stdout
        print(line, file=self._guardian.stdin, flush=True)
        assert self._guardian.stdout.readline() == "done\n", f"{line}: the cluster's guardian failed"

    def run(
        self,
        *command: object,
        cwd: Path = REPOSITORY,
        timeout: float = 120,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that finds this cluster, such as ``sbatch``."""
        return subprocess.run(
            [str(word) for word in command],
            env={**self.environment, **(environment or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ask(self, *command: object) -> str:
        """Return the output of a command that must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: object, environment: Mapping[str, str] | None = None, cwd: Path = REPOSITORY) -> str:
        """Queue a job by ``sbatch``; return its id."""
        done = self.run("sbatch", "--parsable", *arguments, environment=environment, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """Return Slurm's record of a job; for an array, of the first task listed."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job_id).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job_id: str) -> str:
        """Return a job's state, e.g. ``PENDING``."""
        return self.job(job_id)["JobState"]

    def wait(self, job_id: str, timeout: float = 300) -> dict[str, str]:
        """Wait for the end of a job, and return Slurm's record of it."""
        self.wait_for(lambda: self.hurry(job_id)["JobState"] in _ENDED, f"the end of job {job_id}", timeout)
        return self.job(job_id)

    def hurry(self, job_id: str) -> dict[str, str]:
        """Return Slurm's record of a job; a requeued job starts in seconds instead of two minutes.

        It must wait for a few seconds: a node mistakes a job that starts in the second of its own end for the old one.
        """
        job = self.job(job_id)
        if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime" and job["EligibleTime"] != "Unknown":
            ahead = datetime.fromisoformat(job["EligibleTime"]) - datetime.now()
            if ahead.total_seconds() > 2 * _RESTART_SECONDS:
                self.run("scontrol", "update", f"JobId={job_id}", f"StartTime=now+{_RESTART_SECONDS}")
        return job

    def is_idle(self) -> bool:
        """Whether all nodes are up and without work."""
        found = self.run("sinfo", "--noheader", "--Node", "--format=%T").stdout.split()
        return found == ["idle"] * len(NODES)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float, interval: float = 0.2) -> None:
        """Wait until ``condition`` holds; fail after ``timeout`` seconds with the last output of the daemons."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s for {what}\n{self._last_words()}"
            time.sleep(interval)

    def _last_words(self) -> str:
        said = {path: path.read_text(encoding="utf-8", errors="replace") for path in self.folder.glob("*.out")}
        queue = self.run("squeue").stdout
        return "\n".join([queue, *(f"{path.name}: ...{text[-4000:]}" for path, text in said.items())])


def _outside_of_runs(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` without the variables of a surrounding Slurm job or launcher."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {
        name: value
        for name, value in environment.items()
        if name not in launcher and not name.startswith(("SLURM_", "SBATCH_"))
    }
