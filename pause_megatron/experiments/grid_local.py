"""Runs the jobs of a grid on this machine, several at a time. A failed job holds up only the jobs that need it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from pause_megatron import log
from pause_megatron.atomic import sweep
from pause_megatron.children import available_cores, start_child
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.errors import EXIT_DONE, StoppedEarly, UserError
from pause_megatron.experiments.job import Job, Stage, State, shorten
from pause_megatron.experiments.job_outputs import Output, is_made, mark_made, path_of
from pause_megatron.experiments.steps import QUIET_CHILD
from pause_megatron.parallel.launcher import resolve_device_choice
from pause_megatron.parallel.signals import stop_signals_to
from pause_megatron.records.finetuning import FinetuneRecord

_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
"""Time for a job to end after SIGTERM; then it is killed."""
_SAVE_SECONDS = 300.0
"""The same for a pretraining, which saves a checkpoint."""


def run_local(jobs: Sequence[Job], states: Mapping[str, State], at_once: int, lock: int | None) -> None:
    """Run the jobs that are not done, ``at_once`` at a time, and report the failed ones at the end.

    Each job computes on an equal share of the cores, unless ``OMP_NUM_THREADS`` is set, and on one GPU for each of its
    ranks, which it shares with others only if there are more ranks at once than GPUs. Jobs inherit ``lock``, the file
    descriptor of the grid folder's lock: if this process is killed, the folder stays locked until they end.

    Raises :class:`UserError` if a job failed, and :class:`StoppedEarly` after a stop signal, when all running jobs have
    ended.
    """
    to_do = [job for job in jobs if states[job.name] != "done"]
    if not to_do:
        log.progress(f"all {len(jobs)} jobs were done before")
        return
    log.progress(f"{len(to_do)} of {len(jobs)} jobs to do, {at_once} at a time")
    scheduler = _Scheduler(
        waiting=to_do,
        done={job.name for job in jobs if states[job.name] == "done"},
        environment={
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, available_cores() // at_once))),
            # Threads that spin while they wait slow a small model down many times if jobs share cores.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        },
        inherited=() if lock is None else (lock,),
        gpus=gpus_for_jobs(),
        total=len(jobs),
        at_once=at_once,
    )
    with stop_signals_to(scheduler.ask_to_stop):
        scheduler.run()
    scheduler.report()


def sweep_leftovers(jobs: Sequence[Job]) -> None:
    """Remove what killed processes left next to the outputs that exist."""
    for config in (made for job in jobs for made in job.outputs if is_made(made)):
        _sweep_beside(config)
        if isinstance(config, FinetuneConfig) and (config.output / FinetuneRecord.FILE).exists():
            shutil.rmtree(config.work_folder, ignore_errors=True)


def _sweep_beside(output: Output) -> None:
    for path in {path_of(output), getattr(output, "output", path_of(output))}:
        sweep(path.parent, path.name)


def gpus_for_jobs() -> Sequence[str]:
    """Return the GPUs of this process, each as the ``CUDA_VISIBLE_DEVICES`` of a process that has only this one."""
    if resolve_device_choice("auto") == "cpu":
        return ()
    from pause_megatron.parallel.visible_gpus import find_visible_gpus, names_of_gpus  # imports PyTorch

    return names_of_gpus(find_visible_gpus().count)


def least_used(gpus: Sequence[str], used: Sequence[str], number: int = 1) -> list[str]:
    """Return the ``number`` of ``gpus`` that occur least often in ``used``; fewer if there are not enough."""
    return sorted(gpus, key=used.count)[:number]


def start_job(
    job: Job, environment: Mapping[str, str], *, log: Path | None = None, starts_ranks: bool = True, **options: object
) -> subprocess.Popen[str]:
    """Start the job's command for its missing outputs; it writes its output to ``log``, by default ``job.log``.

    Without ``starts_ranks``, the command is one of several ranks that a launcher starts. ``options`` go to
    :class:`subprocess.Popen`.
    """
    for output in job.missing():
        _sweep_beside(output)  # incomplete files of a killed process
    job.log.parent.mkdir(parents=True, exist_ok=True)
    command = job.process(starts_ranks=starts_ranks)
    with open(log or job.log, "w", encoding="utf-8") as file:
        return start_child(command, {**QUIET_CHILD, **environment}, stdout=file, stderr=subprocess.STDOUT, **options)


def finished(job: Job, code: int) -> bool:
    """Whether the job's command, which has ended with ``code``, has made all outputs; records that where needed."""
    if code == EXIT_DONE:
        for output in job.outputs:
            mark_made(output)
    return code == EXIT_DONE and not job.missing()


@dataclass(frozen=True, kw_only=True)
class _Running:
    job: Job
    started: float
    """Seconds of the monotonic clock."""
    gpus: list[str]
    """The GPUs in its ``CUDA_VISIBLE_DEVICES``; empty if the scheduler leaves it alone."""


@dataclass
class _Scheduler:
    waiting: list[Job]
    done: set[str]
    environment: Mapping[str, str]
    inherited: tuple[int, ...]
    """File descriptors that jobs inherit."""
    gpus: Sequence[str]
    """Values of ``CUDA_VISIBLE_DEVICES`` for the jobs; empty to leave it alone."""
    total: int
    """Number of jobs of the grid, with those that were done before."""
    at_once: int
    seconds: dict[Stage, list[float]] = field(default_factory=dict)
    """Stage to the durations of its jobs that succeeded in this call."""
    running: dict[subprocess.Popen[str], "_Running"] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Job name to reason."""
    not_run: dict[str, str] = field(default_factory=dict)
    """Job name to the failed job that it needs."""
    stop_asked: bool = False

    def ask_to_stop(self, *_: object) -> None:
        self.stop_asked = True

    def run(self) -> None:
        """Run the jobs until all have ended or a stop is asked for. Raises :class:`StoppedEarly` for the latter."""
        while (self.waiting or self.running) and not self.stop_asked:
            job = self._next() if len(self.running) < self.at_once else None
            if job is not None:
                log.progress(f"    $ {job.command_line()}")
                used = [gpu for running in self.running.values() for gpu in running.gpus]
                gpus = least_used(self.gpus, used, job.processes)
                child = start_job(job, self._environment_of(job, gpus), pass_fds=self.inherited)
                self.running[child] = _Running(job=job, started=time.monotonic(), gpus=gpus)
            elif self.running:
                self._collect()
        if self.stop_asked:
            self._end_running()
            raise StoppedEarly(f"stopped: {len(self.done)} jobs are done; the same command resumes the grid")

    def _environment_of(self, job: Job, gpus: Sequence[str]) -> dict[str, str]:
        threads = max(1, int(self.environment["OMP_NUM_THREADS"]) // job.processes)
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        return {**self.environment, "OMP_NUM_THREADS": str(threads), **devices}

    def _next(self) -> Job | None:
        """Take the first job that can start; set aside the jobs that need a failed one."""
        for job in list(self.waiting):
            lost = [need for need in job.needs if need in self.failed or need in self.not_run]
            if lost:
                self.waiting.remove(job)
                self.not_run[job.name] = lost[0]
            elif self.done.issuperset(job.needs):
                self.waiting.remove(job)
                return job
        return None

    def _collect(self) -> None:
        ended = [child for child in self.running if child.poll() is not None]
        for child in ended:
            running = self.running.pop(child)
            job, seconds = running.job, time.monotonic() - running.started
            if finished(job, child.returncode):
                self.done.add(job.name)
                self.seconds.setdefault(job.stage, []).append(seconds)
                outcome = f"done in {seconds:.1f} s"
            else:
                self.failed[job.name] = failure(job, child.returncode)
                outcome = f"failed after {seconds:.1f} s"
            ended_jobs = len(self.done) + len(self.failed) + len(self.not_run)
            left = self._seconds_left()
            estimate = f"; about {log.format_duration(left)} left" if left else ""
            log.progress(f"[{ended_jobs}/{self.total}] {job.name}: {outcome}{estimate}")
        if not ended:
            time.sleep(_POLL_SECONDS)

    def _seconds_left(self) -> float | None:
        """Estimate the time to the end from the mean duration of each stage; None while a stage has no duration.

        The report takes seconds and is left out.
        """
        now, work = time.monotonic(), 0.0
        elapsed = {running.job.name: now - running.started for running in self.running.values()}
        for job in [*self.waiting, *(running.job for running in self.running.values())]:
            if job.stage == "report":
                continue
            if job.stage not in self.seconds:
                return None
            work += max(0.0, mean(self.seconds[job.stage]) - elapsed.get(job.name, 0.0))
        return work / self.at_once

    def _end_running(self) -> None:
        for child in self.running:
            child.terminate()
        asked = time.monotonic()
        for child, running in self.running.items():
            seconds = _SAVE_SECONDS if running.job.stage == "pretrain" else _STOP_SECONDS
            try:
                child.wait(max(0.0, asked + seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def report(self) -> None:
        """Print the failed jobs. Raises :class:`UserError` if there are any."""
        if not self.failed:
            log.progress(f"all {self.total} jobs are done")
            return
        for name, reason in self.failed.items():
            log.progress(f"failed: {name}: {reason}")
        for name, need in self.not_run.items():
            log.progress(f"not run: {name}: needs {need}")
        not_run = f", {len(self.not_run)} not run" if self.not_run else ""
        raise UserError(
            f"{len(self.failed)} of {self.total} jobs failed{not_run}, {len(self.done)} are done;"
            " run the same command to try the others again"
        )


def failure(job: Job, code: int) -> str:
    """Describe a failed job by the last line of its log, its exit code and its log file."""
    if code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
    else:
        lines = job.log.read_text(encoding="utf-8", errors="replace").split("\n") if job.log.exists() else []
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "no output in its log")
    return f"{reason} (exit code {code}; log {shorten(str(job.log))})"
