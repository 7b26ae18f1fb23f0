"""Runs a grid's jobs on this machine, several at a time; a job that fails holds up only those that need it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pause_megatron.atomic import sweep
from pause_megatron.children import available_cores
from pause_megatron.errors import StoppedEarly, UserError
from pause_megatron.experiments.forked import Commands, ForkedCommands, StartedCommands
from pause_megatron.experiments.grid_jobs import Job, State
from pause_megatron.parallel.signals import stop_signals_to

_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
"""How long a job may take to end when it is asked to."""


def run_local(jobs: Sequence[Job], states: Mapping[str, State], at_once: int, *, fork: bool) -> None:
    """Run what is not done of ``jobs``, ``at_once`` at a time, as forks or anew, and say at the end what failed.

    Raises :class:`UserError` when a job failed, and :class:`StoppedEarly` when this process is asked to stop: its
    children are ended first.
    """
    to_do = [job for job in jobs if states[job.name] != "done"]
    if not to_do:
        say(f"all {len(jobs)} jobs were done before")
        return
    say(f"{len(to_do)} of {len(jobs)} jobs to do, {at_once} at a time")
    scheduler = _Scheduler(waiting=to_do, done={job.name for job in jobs if states[job.name] == "done"})
    with stop_signals_to(scheduler.ask_to_stop):
        threads = max(1, available_cores() // at_once)
        scheduler.run(at_once, ForkedCommands(threads) if fork else StartedCommands(threads))
    scheduler.report(len(jobs))


@dataclass
class _Scheduler:
    waiting: list[Job]
    done: set[str]
    running: dict[int, tuple[Job, float]] = field(default_factory=dict)
    """By process id, with the moment it started."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name to reason and log."""
    not_run: dict[str, str] = field(default_factory=dict)
    """Name to the job that it needed and that failed."""
    stop_asked: bool = False

    def ask_to_stop(self, *_: object) -> None:
        self.stop_asked = True

    def run(self, at_once: int, commands: Commands) -> None:
        while (self.waiting or self.running) and not self.stop_asked:
            job = self._next() if len(self.running) < at_once else None
            if job is not None:
                self._start(job, commands)
            elif self.running:
                self._collect()
        if self.stop_asked:
            self._end_running()
            raise StoppedEarly(f"stopped: {len(self.done)} jobs are done; the same command continues")

    def _next(self) -> Job | None:
        """Take the first waiting job that has what it needs; those that never will are set aside."""
        for job in list(self.waiting):
            lost = [need for need in job.needs if need in self.failed or need in self.not_run]
            if lost:
                self.waiting.remove(job)
                self.not_run[job.name] = lost[0]
            elif self.done.issuperset(job.needs):
                self.waiting.remove(job)
                return job
        return None

    def _start(self, job: Job, commands: Commands) -> None:
        sweep(job.product.parent, job.product.name)  # what a killed process left half-written
        say(f"    $ {shown_command(job)}")
        self.running[commands.start(job.action, job.log)] = (job, time.monotonic())

    def _collect(self) -> None:
        """Wait a moment for a running job to end, and book it."""
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid not in self.running:
            time.sleep(_POLL_SECONDS)
            return
        job, started = self.running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if code == 0 and job.product.exists():
            self.done.add(job.name)
            say(f"{job.name}: done in {seconds:.1f} s")
            return
        self.failed[job.name] = failure(job, code)
        say(f"{job.name}: failed after {seconds:.1f} s")

    def _end_running(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        for pid in self.running:
            os.kill(pid, signal.SIGTERM)
        while self.running:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            self.running.pop(pid, None)
            if pid == 0:
                time.sleep(_POLL_SECONDS)
            if time.monotonic() > deadline:
                for pid in self.running:
                    os.kill(pid, signal.SIGKILL)

    def report(self, number: int) -> None:
        """Say what is done and what is not. Raises :class:`UserError` if anything is not."""
        if not self.failed:
            say(f"all {number} jobs are done")
            return
        for name, reason in self.failed.items():
            say(f"failed: {name}: {reason}")
        for name, need in self.not_run.items():
            say(f"not run: {name}: needs {need}")
        not_run = f", {len(self.not_run)} not run" if self.not_run else ""
        raise UserError(
            f"{len(self.failed)} of {number} jobs failed{not_run}, {len(self.done)} are done;"
            " the same command tries those that are not again"
        )


def failure(job: Job, code: int) -> str:
    """Why a job failed, in its own last words, and where to read on."""
    if code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
    else:
        lines = job.log.read_text(encoding="utf-8", errors="replace").split("\n") if job.log.exists() else []
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "no word of why")
    return f"{reason} (exit code {code}; log {_short(str(job.log))})"


def shown_command(job: Job) -> str:
    """The job's command line as a person would type it."""
    return _short(shlex.join(["pause-megatron", *job.action[2:]]))


def _short(text: str) -> str:
    return text.replace(f"{Path.cwd()}/", "")


def say(line: str) -> None:
    """Tell a person."""
    print(line, file=sys.stderr, flush=True)
