"""Queues the jobs of a grid as Slurm jobs through the package submitit, each after those it needs."""

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pause_megatron.atomic import write_json
from pause_megatron.errors import UserError, one_line
from pause_megatron.experiments.grid_jobs import Job, State
from pause_megatron.experiments.grid_local import failure, start_job
from pause_megatron.experiments.steps import say

CLUSTER = "cluster"
"""Option that chooses submitit's executor: ``slurm``, or ``local`` to try a grid on a machine without Slurm."""
_FOLDER = "slurm"
_QUEUED = "queued.json"


@dataclass(frozen=True)
class QueuedJob:
    """The function of a Slurm job, which submitit stores with pickle."""

    job: Job

    def __call__(self) -> None:
        """Run the job's command for its missing outputs. Raises :class:`RuntimeError` if it fails: Slurm then knows."""
        code = start_job(self.job, {}, preexec_fn=_ignore_time_limit_signals).wait()
        if code or self.job.missing():
            raise RuntimeError(f"{self.job.name}: {failure(self.job, code)}")

    def checkpoint(self) -> Any:
        """Requeue the job. submitit calls this when Slurm signals that the time limit is near."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _ignore_time_limit_signals() -> None:
    """Slurm signals every process of a job; if the command died of it, submitit would see a failed job."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def queue_slurm(jobs: Sequence[Job], states: Mapping[str, State], output: Path, options: Sequence[str]) -> None:
    """Queue the jobs that are neither done nor in the queue, with submitit's options ``KEY=VALUE``.

    Raises :class:`UserError` without submitit, without Slurm, and for an option that submitit does not know.
    """
    settings = dict(_parse_option(option) for option in options)
    executor = _executor(output / _FOLDER, settings)
    on_slurm = executor.cluster == "slurm"
    queued = _Queue(output / _FOLDER / _QUEUED, executor)
    submitted: dict[str, Any] = {}
    for job in jobs:
        if states[job.name] == "done" or queued.waits(job.name):
            continue
        if on_slurm:
            ids = [queued.ids[need] for need in job.needs if states[need] != "done"]
            # Without kill-on-invalid-dep, a job stays in the queue forever after the job it needs has failed.
            extra = {"dependency": f"afterok:{':'.join(ids)}", "kill-on-invalid-dep": "yes"} if ids else {}
            given = settings.get("slurm_additional_parameters", {})
            executor.update_parameters(slurm_additional_parameters={**given, **extra})
        elif any(submitted[need].exception() for need in job.needs if need in submitted):
            say(f"not run: {job.name}: needs {', '.join(job.needs)}")
            continue
        executor.update_parameters(name=job.name)
        submitted[job.name] = executor.submit(QueuedJob(job))
        queued.add(job.name, submitted[job.name].job_id)
        say(f"    queued as {submitted[job.name].job_id}: $ {job.command_line()}")
    done = sum(state == "done" for state in states.values())
    say(f"{len(submitted)} of {len(jobs)} jobs queued, {done} done before; --list shows their states")
    if not on_slurm:
        failed = [str(job.exception()).splitlines()[-1] for job in submitted.values() if job.exception()]
        if failed:
            raise UserError(f"{len(failed)} of {len(submitted)} jobs failed; the first: {failed[0]}")


def _parse_option(option: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``. Values are YAML, except times such as 10:00:00, which YAML reads as numbers."""
    key, _, value = option.partition("=")
    try:
        return key, value if re.fullmatch(r"[\d:-]*:[\d:]*", value) else yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--slurm {option}: not YAML ({one_line(error)}); quote the value") from error


class _Queue:
    """Slurm's job ids from this and earlier calls, so that no job is queued twice."""

    def __init__(self, path: Path, executor: Any) -> None:
        self._path = path
        self._executor = executor
        self.ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def waits(self, name: str) -> bool:
        """Return whether the job is in the queue or runs."""
        if name not in self.ids:
            return False
        job_class = type(self._executor._executor).job_class
        return not job_class(self._executor.folder, self.ids[name]).done(force_check=True)

    def add(self, name: str, job_id: str) -> None:
        self.ids[name] = job_id
        write_json(self._path, self.ids)


def _executor(folder: Path, settings: Mapping[str, Any]) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError("--executor slurm needs the package submitit: pip install 'pause_megatron[slurm]'") from error
    cluster = settings.get(CLUSTER, "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**{key: value for key, value in settings.items() if key != CLUSTER})
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise UserError(f"--executor slurm: {one_line(error)}") from error
    return executor
