"""Queues a grid's jobs as Slurm jobs, through the package submitit: one for each, after those it needs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pause_megatron.atomic import sweep, write_json
from pause_megatron.children import start_child
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_jobs import Job, State
from pause_megatron.experiments.grid_local import failure, say, shown_command
from pause_megatron.experiments.steps import QUIET_CHILD

CLUSTER = "cluster"
"""The option that picks one of submitit's executors: ``slurm``, or ``local`` to try everything without Slurm."""
_FOLDER = "slurm"
_QUEUED = "queued.json"


@dataclass(frozen=True)
class QueuedJob:
    """What a Slurm job does, in the form submitit stores it."""

    job: Job

    def __call__(self) -> None:
        """Run the job's command. Raises :class:`RuntimeError` when it fails, so that Slurm knows."""
        job = self.job
        sweep(job.product.parent, job.product.name)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "w", encoding="utf-8") as log:
            child = start_child(
                [sys.executable, *job.action],
                QUIET_CHILD,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_leave_warnings_to_submitit,
            )
            code = child.wait()
        if code or not job.product.exists():
            raise RuntimeError(f"{job.name}: {failure(job, code)}")

    def checkpoint(self) -> Any:
        """Called by submitit when Slurm warns of the end of the time: queue the job again, to continue."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _leave_warnings_to_submitit() -> None:
    """Slurm warns every process of a job, and the command must not die of it: that would be a failure."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def queue_slurm(jobs: Sequence[Job], states: Mapping[str, State], output: Path, options: Sequence[str]) -> None:
    """Queue what is neither done nor queued already of ``jobs``, with the options ``KEY=VALUE`` of submitit.

    Raises :class:`UserError` without submitit, or without Slurm, or for an option submitit does not know.
    """
    settings = dict(_setting(option) for option in options)
    executor = _executor(output / _FOLDER, settings)
    on_slurm = executor.cluster == "slurm"
    queued = _Queue(output / _FOLDER / _QUEUED, executor)
    submitted: dict[str, Any] = {}
    for job in jobs:
        if states[job.name] == "done" or queued.waits(job.name):
            continue
        if on_slurm:
            ids = [queued.ids[need] for need in job.needs if states[need] != "done"]
            # Without the second option jobs whose need has failed would stay in the queue for ever.
            extra = {"dependency": f"afterok:{':'.join(ids)}", "kill-on-invalid-dep": "yes"} if ids else {}
            given = settings.get("slurm_additional_parameters", {})
            executor.update_parameters(slurm_additional_parameters={**given, **extra})
        elif any(submitted[need].exception() for need in job.needs if need in submitted):
            say(f"not run: {job.name}: needs {', '.join(job.needs)}")
            continue
        executor.update_parameters(name=job.name)
        submitted[job.name] = executor.submit(QueuedJob(job))
        queued.add(job.name, submitted[job.name].job_id)
        say(f"    queued as {submitted[job.name].job_id}: $ {shown_command(job)}")
    done = sum(state == "done" for state in states.values())
    say(f"{len(submitted)} of {len(jobs)} jobs queued, {done} done before; --list shows how far they are")
    if not on_slurm:
        failed = [str(job.exception()).splitlines()[-1] for job in submitted.values() if job.exception()]
        if failed:
            raise UserError(f"{len(failed)} of {len(submitted)} jobs failed, the first with: {failed[0]}")


def _setting(option: str) -> tuple[str, Any]:
    """``KEY=VALUE``; the value is read as YAML is, save for a time such as 10:00:00, which to YAML is a number."""
    key, _, value = option.partition("=")
    try:
        return key, value if re.fullmatch(r"[\d:-]*:[\d:]*", value) else yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--slurm {option}: not YAML: {' '.join(str(error).split())}") from error


class _Queue:
    """The jobs queued in this and earlier calls, so that none is queued twice."""

    def __init__(self, path: Path, executor: Any) -> None:
        self._path = path
        self._executor = executor
        self.ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def waits(self, name: str) -> bool:
        """Whether the job was queued before and has not ended since."""
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
        raise UserError(f"--executor slurm: {' '.join(str(error).split())}") from error
    return executor
