"""Runs the steps of the demo: commands of this project, some at the same time, skipping those that are done.

A step is done when all of its products exist; commands write those last, by a rename. A failed step ends the demo with
the last lines of its log. The next call starts with that step.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pause_megatron import log
from pause_megatron.children import start_child
from pause_megatron.errors import EXIT_REQUEUE, EXIT_USER, StoppedEarly, UserError

QUIET_CHILD = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
"""Environment of a command that writes to a log: no warnings of tokenizers, and each line at once."""
_ERROR_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command or one function call."""

    name: str
    """Unique; the name of the log file."""
    action: Sequence[str] | Callable[[], object]
    """Arguments of Python, e.g. ``["-m", "pause_megatron", "report", ...]``, or a function without arguments."""
    products: Sequence[Path]
    """Files and folders that all exist if, and only if, the step is done."""
    show_all_lines: bool = False
    """Show every line that the command prints, not only its log lines with a time."""

    @property
    def is_done(self) -> bool:
        """Whether all products exist."""
        return all(product.exists() for product in self.products)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps that do not depend on each other."""

    title: str
    steps: Sequence[Step]
    at_once: int = 1
    """Steps that run at the same time."""


@dataclass
class StageRunner:
    """Runs stages in order and shows the progress on standard error."""

    logs: Path
    """Folder for the complete output of each step."""
    number_of_stages: int
    """Total for the progress display."""
    _stage: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def run(self, stage: Stage) -> None:
        """Run the steps of ``stage`` that are not done.

        Raises :class:`UserError` if a step fails with an error the user can fix, :class:`StoppedEarly` if it stopped on
        request, and otherwise :class:`RuntimeError`.
        """
        self._stage += 1
        to_do = [step for step in stage.steps if not step.is_done]
        self._say(f"\n[{self._stage}/{self.number_of_stages}] {stage.title}")
        if not to_do:
            self._say("    done before")
            return
        started = time.monotonic()
        with ThreadPoolExecutor(stage.at_once) as pool:
            running = [pool.submit(self._run_step, step, label=stage.at_once > 1) for step in to_do]
            try:
                for future in running:
                    future.result()
            except BaseException:
                for future in running:
                    future.cancel()
                raise
        self._say(f"    {time.monotonic() - started:.1f} s")

    def _run_step(self, step: Step, *, label: bool) -> None:
        if callable(step.action):
            step.action()
            return
        prefix = f"    {step.name}: " if label else "    "
        self._say(f"    $ {shlex.join(['python', *step.action]).replace(f'{Path.cwd()}/', '')}")
        self.logs.mkdir(parents=True, exist_ok=True)
        log_file = self.logs / f"{step.name}.log"
        environment = {**QUIET_CHILD, "OMP_NUM_THREADS": "1"}
        child = start_child(
            [sys.executable, *step.action], environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert child.stdout is not None
        with open(log_file, "w", encoding="utf-8") as file:
            for line in child.stdout:
                file.write(line)
                if step.show_all_lines or log.LINE.match(line):
                    self._say(prefix + line.rstrip())
        code = child.wait()
        if code == 0 and step.is_done:
            return
        if code == EXIT_REQUEUE:
            raise StoppedEarly(f"{step.name} stopped on request and saved; the same command resumes it")
        last = log_file.read_text(encoding="utf-8").splitlines()[-_ERROR_LINES:]
        message = "\n    ".join([f"{step.name} failed (exit code {code}); its log {log_file} ends with:", *last])
        raise UserError(message) if code == EXIT_USER else RuntimeError(message)

    def _say(self, line: str) -> None:
        with self._lock:
            print(line, file=sys.stderr, flush=True)
