"""Runs the steps of an experiment: real commands, several at once where they can be, skipping what is done already.

A step is done when its product, written last and by a rename, is there. A step that fails ends the experiment with its
log's last lines; the next call starts with it.
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
"""Environment of a command whose output goes to a log as it comes."""
_ERROR_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, or one function call, and what it leaves behind."""

    name: str
    """Unique; names the log file."""
    action: Sequence[str] | Callable[[], object]
    """A command line of this project without its interpreter, or a function without arguments."""
    product: Path
    """Exists exactly when the step is done, if there are no others."""
    other_products: Sequence[Path] = ()
    """Exist, together with the product, exactly when the step is done."""
    chatty: bool = False
    """Whether everything it prints is for a person to read as it comes, and not its timed lines alone."""

    @property
    def is_done(self) -> bool:
        """Whether everything it leaves behind is there."""
        return self.product.exists() and all(product.exists() for product in self.other_products)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps that do not depend on each other."""

    title: str
    """What a person reads while it runs."""
    steps: Sequence[Step]
    """May run side by side."""
    at_once: int = 1
    """How many do."""


@dataclass
class StageRunner:
    """Runs stages in order and tells a person how far they are."""

    logs: Path
    """Folder of the steps' full output."""
    number_of_stages: int
    """For the progress display."""
    _stage: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def run(self, stage: Stage) -> None:
        """Run what is not done yet of ``stage``.

        Raises :class:`UserError` when a step fails for a reason the user can mend, :class:`StoppedEarly` when it was
        asked to stop, else :class:`RuntimeError`.
        """
        self._stage += 1
        to_do = [step for step in stage.steps if not step.is_done]
        print(f"\n[{self._stage}/{self.number_of_stages}] {stage.title}", file=sys.stderr, flush=True)
        if not to_do:
            print("    done before", file=sys.stderr, flush=True)
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
        print(f"    {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)

    def _run_step(self, step: Step, *, label: bool) -> None:
        if callable(step.action):
            step.action()
            return
        command = [sys.executable, *step.action]
        prefix = f"    {step.name}: " if label else "    "
        self._say(f"    $ {shlex.join(['python', *step.action]).replace(f'{Path.cwd()}/', '')}")
        self.logs.mkdir(parents=True, exist_ok=True)
        log_file = self.logs / f"{step.name}.log"
        child = start_child(
            command, {**QUIET_CHILD, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert child.stdout is not None
        with open(log_file, "w", encoding="utf-8") as file:
            for line in child.stdout:
                file.write(line)
                if step.chatty or log.LINE.match(line):
                    self._say(prefix + line.rstrip())
        code = child.wait()
        if code == 0 and step.is_done:
            return
        if code == EXIT_REQUEUE:
            raise StoppedEarly(f"{step.name} was asked to stop, and saved; the same command continues")
        message = f"{step.name} failed (exit code {code}); its log {log_file} ends with:\n{_last_lines(log_file)}"
        raise UserError(message) if code == EXIT_USER else RuntimeError(message)

    def _say(self, line: str) -> None:
        with self._lock:
            print(line, file=sys.stderr, flush=True)


def _last_lines(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_ERROR_LINES:])
