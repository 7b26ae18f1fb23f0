"""Shared parts of the benchmarks: the cost of a command, repeated measurements, flags, and tables of results.

Processor seconds are user and system time of a command and of all processes it starts, so that more processes or
threads neither help nor hurt. They vary less than wall time on a shared machine, but not by nothing. Each benchmark
therefore runs its candidates in turn, repeats them, and reports median, lowest and highest.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_SHOWN_LINES = 15
_PACKAGES = ("numpy", "sentencepiece", "tokenizers", "gigatoken", "transformers", "torch", "megatron-core", "deepspeed")


class CommandError(Exception):
    """A measured command failed; the message ends with the last lines of its output."""


@dataclass(frozen=True)
class Cost:
    """Cost of a command with all its processes."""

    cpu_seconds: float
    """User and system time."""
    wall_seconds: float
    peak_bytes: int
    """Largest resident set of one process."""
    import_seconds: float = 0.0
    """Processor seconds spent on imports before any work, if the command reports them."""

    @property
    def work_seconds(self) -> float:
        """Processor seconds without imports, which vary more than some of the measured differences."""
        return self.cpu_seconds - self.import_seconds


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of ``values``."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def ratio(cls, numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
        """The spread of the ratios, repeat by repeat."""
        return cls.of(a / b for a, b in zip(numerators, denominators, strict=True))

    def show(self, unit: float = 1.0, digits: int = 2, bold: bool = False) -> str:
        """``median (low-high)``, each divided by ``unit``."""
        median, low, high = (f"{value / unit:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{f'**{median}**' if bold else median} ({low}-{high})"


def run_measured(command: Sequence[object], log: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Run ``command`` with its output in the file ``log`` and ``environment`` added to this process's.

    Raises :class:`CommandError` if the command fails.
    """
    # Processes that outlive their parent, such as multiprocessing's resource tracker, become children of this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with open(log, "wb") as output:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(words, env={**os.environ, **(environment or {})}, **options)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall_seconds = time.perf_counter() - started
    cpu_seconds = usage.ru_utime + usage.ru_stime + _cpu_seconds_of_orphans()
    if child.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
        raise CommandError(f"{' '.join(words)}\nexited with {child.returncode}; {log} ends with\n" + "\n".join(lines))
    return Cost(cpu_seconds, wall_seconds, usage.ru_maxrss * 1024)


def _cpu_seconds_of_orphans() -> float:
    seconds = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return seconds
        seconds += usage.ru_utime + usage.ru_stime


def in_turn(names: Iterable[str], repeat: int) -> list[str]:
    """``names`` in their order, or in reverse in every other ``repeat``."""
    return list(names)[:: -1 if repeat % 2 else 1]


def new_parser(description: str | None, repeats: int | None = None) -> argparse.ArgumentParser:
    """A parser with ``--work`` and, with a default for it, ``--repeats``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for inputs, outputs and results")
    if repeats:
        parser.add_argument("--repeats", type=int, default=repeats, help=f"measurements of everything ({repeats})")
    return parser


def require_at_least(least: int, arguments: argparse.Namespace, *names: str) -> None:
    """End the program with one line if one of the flags is below ``least``."""
    for name in names:
        value = getattr(arguments, name)
        require(value >= least, f"--{name.replace('_', '-')} {value}: must be at least {least}")


def require(condition: bool, message: str) -> None:
    """End the program with ``message`` unless ``condition``."""
    if not condition:
        raise SystemExit(message)


def available_cores() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def load_now() -> float:
    """Load average of the last minute."""
    return os.getloadavg()[0]


def save_table(
    work: Path,
    name: str,
    *,
    title: str,
    text: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    load: float,
    measurements: object,
) -> None:
    """Print a table as a section of RESULTS.md, and write the measurements to ``WORK/results/NAME.json``.

    ``load`` is the load average before the measurements.
    """
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(
        f"## {title}\n\n{text}\n\n{table}\n\n{_machine()} Load average: {load:.1f} to {load_now():.1f}.\n", flush=True
    )
    folder = work / "results"
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"title": title, "measurements": measurements}, indent=1)
    (folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.split(": ")[1] for line in cpuinfo if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return f"{processor}, {available_cores()} cores; Python {platform.python_version()}, {versions}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
