"""Runs a command to its end and says what it cost: processor time and memory of all its processes.

Every benchmark here measures with this. Processor seconds are user and system time of the command, of the processes it
started, and of those they started, so that splitting work over processes or threads neither helps nor hurts. They are
steadier than wall time on a machine that others use too, but not immune: caches and memory are shared. Hence
:class:`Spread`: alternate the candidates, repeat, and report median, lowest and highest.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SHOWN_LINES = 15


class CommandError(Exception):
    """A measured command failed; the message has the end of its output."""


@dataclass(frozen=True)
class Cost:
    """What a command cost."""

    cpu_seconds: float
    """User and system time of all processes."""
    wall_seconds: float
    peak_bytes: int
    """Most memory that one of its processes had resident."""
    import_seconds: float = 0.0
    """Of the processor seconds, those known to have gone into importing modules before any work."""

    @property
    def work_seconds(self) -> float:
        """Processor seconds without those of importing, whose noise would hide that of the work."""
        return self.cpu_seconds - self.import_seconds


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of ``values``."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, unit: float = 1.0, digits: int = 2) -> str:
        """``median (low-high)``, each divided by ``unit``."""
        median, low, high = (f"{value / unit:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{median} ({low}-{high})"


def run_measured(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Run ``command``, its output going to the file ``log``, with ``environment`` added to this process's.

    The calling process should be small: until a child has started its own program, it counts as large as its parent.
    Raises :class:`CommandError` when the command fails.
    """
    _adopt_orphans()
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with open(log, "wb") as output:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall_seconds = time.perf_counter() - started
    cpu_seconds = usage.ru_utime + usage.ru_stime + _left_behind()
    if child.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
        raise CommandError(f"{' '.join(words)}\nended with {child.returncode}; {log} ends\n" + "\n".join(lines))
    return Cost(cpu_seconds, wall_seconds, usage.ru_maxrss * 1024)


def _adopt_orphans() -> None:
    """Make this process the parent of processes that outlive theirs, such as multiprocessing's resource tracker."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _left_behind() -> float:
    """Wait for what a command left behind, and return its processor seconds."""
    seconds = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return seconds
        seconds += usage.ru_utime + usage.ru_stime
