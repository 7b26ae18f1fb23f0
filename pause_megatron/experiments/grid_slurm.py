"""Queues the jobs of a grid as Slurm jobs through the package submitit, each after those it needs."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_args

import yaml

from pause_megatron import log
from pause_megatron.atomic import write_json
from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.errors import EXIT_LOST_PROCESS, EXIT_REQUEUE, UserError, one_line
from pause_megatron.experiments.grid_local import failure, finished, start_job
from pause_megatron.experiments.job import Job, Stage, State
from pause_megatron.optional_packages import packages_needed_by

CLUSTER = "cluster"
"""Option that chooses submitit's executor: ``slurm``, or ``local`` to try a grid on a machine without Slurm."""
_OF_EXECUTOR = ("slurm_python", "slurm_max_num_timeout", "local_max_num_timeout")
"""Options that submitit takes when it makes an executor."""
_FOLDER = "slurm"
_QUEUED = "queued.json"
_POLL_SECONDS = 0.2
_SIGNAL_DELAY, _SIGNAL_SECONDS = "slurm_signal_delay_s", 90
"""Option for the time between the signal and the end of a job, and submitit's default."""
_SECONDS_TO_REQUEUE = 15.0
"""Part of that time that a pretraining must leave after it has saved."""
_REQUEUE_SECONDS = 300.0
_MOST_LOSSES = 3
"""Requeues of a pretraining that lost a process at the same checkpoint."""


@dataclass
class QueuedJob:
    """The function of a Slurm job, which submitit stores with pickle; each task of the job calls it."""

    job: Job
    signal_seconds: float = _SIGNAL_SECONDS
    """Time between the signal that the time is nearly over and the end of the job."""

    def __call__(self) -> None:
        """Run the job's command for its missing outputs. Raises :class:`RuntimeError` if it fails: Slurm then knows."""
        rank, ranks = (int(os.environ.get(name) or default) for name, default in _RANKS)
        log = self.job.log if rank == 0 else self.job.log.with_suffix(f".rank{rank}.log")
        self._child = start_job(self.job, {}, log=log, starts_ranks=ranks == 1, preexec_fn=_ignore_time_limit_signals)
        while (code := self._child.poll()) is None:  # not wait(), whose lock would keep checkpoint() from waiting
            time.sleep(_POLL_SECONDS)
        if ranks > 1 and rank > 0:
            if code in (EXIT_REQUEUE, EXIT_LOST_PROCESS):
                time.sleep(_REQUEUE_SECONDS)  # rank 0 has the job requeued
            if code:
                raise RuntimeError(f"rank {rank} of {self.job.name}: exit code {code} (log {log})")
        elif not finished(self.job, code):
            lost = code == EXIT_LOST_PROCESS or code < 0
            if code == EXIT_REQUEUE or (lost and self._may_try_again()):
                _requeue()
            raise RuntimeError(f"{self.job.name}: {failure(self.job, code)}")

    def checkpoint(self) -> Any:
        """Requeue the job. submitit calls this when Slurm signals that the time limit is near."""
        from submitit.helpers import DelayedSubmission

        if self.job.stage == "pretrain":
            self._child.send_signal(signal.SIGTERM)  # all ranks save together
            try:
                self._child.wait(self.signal_seconds - _SECONDS_TO_REQUEUE)
            except subprocess.TimeoutExpired:
                log.progress(f"{self.job.name}: was still saving; raise {_SIGNAL_DELAY}")
        return DelayedSubmission(QueuedJob(self.job, self.signal_seconds))

    def _may_try_again(self) -> bool:
        """Whether a pretraining that lost a process has progressed, or has not lost many at this checkpoint."""
        [config] = self.job.outputs
        if not isinstance(config, PretrainConfig):
            return False
        newest = max((path.name for path in (config.output / CHECKPOINTS).glob("iter_*")), default="none")
        losses = self.job.log.with_suffix(".lost")
        with open(losses, "a", encoding="utf-8") as file:
            file.write(f"{newest}\n")
        return losses.read_text(encoding="utf-8").splitlines().count(newest) <= _MOST_LOSSES


_RANKS = (("SLURM_PROCID", 0), ("SLURM_STEP_NUM_TASKS", 1))


def _requeue() -> None:
    """Have Slurm queue this job again, and wait for that."""
    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
    time.sleep(_REQUEUE_SECONDS)


def _ignore_time_limit_signals() -> None:
    """Slurm signals every process of a job; if the command died of it, submitit would see a failed job."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def queue_slurm(jobs: Sequence[Job], states: Mapping[str, State], output: Path, options: Sequence[str]) -> None:
    """Queue the jobs that are neither done nor in the queue, with submitit's options ``[STAGE.]KEY=VALUE``.

    Raises :class:`UserError` without submitit, without Slurm, and for an option that submitit does not know.
    """
    executors = _Executors(output / _FOLDER, options)
    queued = _Queue(output / _FOLDER / _QUEUED, executors)
    submitted: dict[str, Any] = {}
    for job in jobs:
        if states[job.name] == "done":
            continue
        if queued.waits(job):
            log.progress(f"{job.name}: in the queue as job {queued.ids[job.name]}")
            continue
        executor = executors.of(job)
        if executors.on_slurm:
            ids = [queued.ids[need] for need in job.needs if states[need] != "done"]
            # Without kill-on-invalid-dep, a job stays in the queue forever after the job it needs has failed.
            extra = {"dependency": f"afterok:{':'.join(ids)}", "kill-on-invalid-dep": "yes"} if ids else {}
            given = executors.settings(job.stage).get("slurm_additional_parameters", {})
            executor.update_parameters(slurm_additional_parameters={**given, **extra})
        elif any(submitted[need].exception() for need in job.needs if need in submitted):
            log.progress(f"not run: {job.name}: needs {', '.join(job.needs)}")
            continue
        executor.update_parameters(name=job.name)
        seconds = executors.settings(job.stage).get(_SIGNAL_DELAY, _SIGNAL_SECONDS)
        submitted[job.name] = _submitted(executor, QueuedJob(job, seconds))
        queued.add(job.name, submitted[job.name].job_id)
        log.progress(f"    queued as {submitted[job.name].job_id}: $ {job.command_line()}")
    done = sum(state == "done" for state in states.values())
    log.progress(f"{len(submitted)} of {len(jobs)} jobs queued, {done} done before; --list shows their states")
    if not executors.on_slurm:
        failed = [str(job.exception()).splitlines()[-1] for job in submitted.values() if job.exception()]
        if failed:
            raise UserError(f"{len(failed)} of {len(submitted)} jobs failed; the first: {failed[0]}")


def _submitted(executor: Any, queued: QueuedJob) -> Any:
    """Queue a job. Raises :class:`UserError` if Slurm refuses it, for example because it limits the jobs of a user."""
    from submitit.core.utils import FailedJobError

    try:
        return executor.submit(queued)
    except FailedJobError as error:
        raise UserError(
            f"--executor slurm: {queued.job.name} was not queued ({one_line(error)}); run the same command again later"
        ) from error


class _Executors:
    """One executor of submitit for each stage, with the options of all stages and its own."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self._folder = folder
        self._options: dict[str | None, dict[str, Any]] = {None: {}}
        for option in options:
            stage, key, value = parse_option(option)
            self._options.setdefault(stage, {})[key] = value
        self.on_slurm = self._made("report").cluster == "slurm"

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return the options of ``stage``."""
        return {**self._options[None], **self._options.get(stage, {})}

    def of(self, job: Job) -> Any:
        """Return the executor of the job's stage, set up for it."""
        executor, settings = self._made(job.stage), self.settings(job.stage)
        if job.processes > 1 and "tasks_per_node" not in settings and self.on_slurm:
            executor.update_parameters(tasks_per_node=job.processes // int(settings.get("nodes", 1)))
        return executor

    def is_over(self, job: Job, job_id: str) -> bool:
        """Whether a job that was queued before has ended. Raises :class:`UserError` if Slurm does not answer."""
        if self.on_slurm:
            return job_id not in self._in_queue
        job_class = type(self._made(job.stage)._executor).job_class
        return bool(job_class(self._folder, job_id).done(force_check=True))

    @cached_property
    def _in_queue(self) -> set[str]:
        """Ids of this user's jobs that wait or run."""
        asked = ["squeue", "--noheader", "--me", "--format=%A"]
        try:
            found = subprocess.run(asked, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError(f"--executor slurm: squeue: {error.strerror or error}; run it on a submit host") from error
        if found.returncode:
            raise UserError(f"--executor slurm: squeue: {found.stderr.strip()}; try again when Slurm answers")
        return set(found.stdout.split())

    @cache  # noqa: B019 - lives as long as the command
    def _made(self, stage: Stage) -> Any:
        return _executor(self._folder, self.settings(stage))


def parse_option(option: str) -> tuple[str | None, str, Any]:
    """Split ``[STAGE.]KEY=VALUE``. Values are YAML, except times such as 10:00:00, which YAML reads as numbers."""
    key, _, value = option.partition("=")
    stage, dot, rest = key.partition(".")
    if dot and stage not in get_args(Stage):
        raise UserError(f"--slurm {option}: unknown stage '{stage}'; give one of {', '.join(get_args(Stage))}")
    name = rest if dot else key
    if name == "slurm_time":  # submitit counts in minutes when it decides whether a job's time was up
        return stage if dot else None, "timeout_min", _minutes(option, value)
    try:
        parsed = value if re.fullmatch(r"[\d:-]*:[\d:]*", value) else yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--slurm {option}: not YAML ({one_line(error)}); quote the value") from error
    return stage if dot else None, name, parsed


def _minutes(option: str, value: str) -> int:
    """Return a time in Slurm's forms, such as 90, 1:30:00, 1-12 or 1-12:00:00, in minutes, rounded up."""
    days, dash, clock = value.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise UserError(f"--slurm {option}: not a time; write minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    if dash:
        hours, minutes, seconds = [*map(int, parts), 0, 0][:3]
    else:
        hours, minutes, seconds = [0, *map(int, parts), 0][:3] if len(parts) < 3 else map(int, parts)
    return 24 * 60 * int(days or 0) + 60 * hours + minutes + (seconds > 0)


class _Queue:
    """Slurm's job ids from this and earlier calls, so that no job is queued twice."""

    def __init__(self, path: Path, executors: _Executors) -> None:
        self._path = path
        self._executors = executors
        self.ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def waits(self, job: Job) -> bool:
        """Return whether the job is in the queue or runs."""
        return job.name in self.ids and not self._executors.is_over(job, self.ids[job.name])

    def add(self, name: str, job_id: str) -> None:
        self.ids[name] = job_id
        write_json(self._path, self.ids)


def _executor(folder: Path, settings: Mapping[str, Any]) -> Any:
    with packages_needed_by("--executor slurm"):
        import submitit
    cluster = settings.get(CLUSTER, "slurm")
    of_executor = {key: value for key, value in settings.items() if key in _OF_EXECUTOR}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **of_executor)
        others = {key: value for key, value in settings.items() if key not in (CLUSTER, *_OF_EXECUTOR)}
        executor.update_parameters(**others)
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"--executor slurm: {one_line(error)}") from error
    return executor
