"""Runs the steps of the demo: commands of this project, some at the same time, skipping those that are done.

A failed step ends the demo with the last lines of its log. The next call starts with that step.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    """Files and folders that all exist if, and only if, the step is done: commands write them last, by a rename."""
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


def command(*words: object) -> list[str]:
    """Return the action of a step that runs a command of ``pause-megatron`` with its flags."""
    return ["-m", "pause_megatron", *map(str, words)]


def run_stages(stages: Sequence[Stage], logs: Path, environment: Mapping[str, str]) -> None:
    """Run the steps that are not done, stage by stage; each step writes its complete output to a file in ``logs``.

    Commands get ``environment`` in addition to this process's.

    Raises :class:`UserError` if a step fails with an error the user can fix, :class:`StoppedEarly` if it stopped on
    request, and otherwise :class:`RuntimeError`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(stages, start=1):
        log.progress(f"\n[{number}/{len(stages)}] {stage.title}")
        _run_stage(stage, logs, environment)


def _run_stage(stage: Stage, logs: Path, environment: Mapping[str, str]) -> None:
    to_do = [step for step in stage.steps if not step.is_done]
    if not to_do:
        log.progress("    done before")
        return
    started = time.monotonic()
    with ThreadPoolExecutor(stage.at_once) as pool:
        running = [pool.submit(_run_step, step, logs, environment, label=stage.at_once > 1) for step in to_do]
        try:
            for future in running:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure, no other step starts
    log.progress(f"    {time.monotonic() - started:.1f} s")


def _run_step(step: Step, logs: Path, environment: Mapping[str, str], *, label: bool) -> None:
    if callable(step.action):
        step.action()
        return
    prefix = f"    {step.name}: " if label else "    "
    log.progress(f"    $ {shlex.join(['python', *step.action]).replace(f'{Path.cwd()}/', '')}")
    log_file = logs / f"{step.name}.log"
    settings = {**QUIET_CHILD, "OMP_NUM_THREADS": "1", **environment}
    child = start_child([sys.executable, *step.action], settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    with open(log_file, "w", encoding="utf-8") as file:
        for line in child.stdout:
            file.write(line)
            if step.show_all_lines or log.LINE.match(line):
                log.progress(prefix + line.rstrip())
    code = child.wait()
    if code == 0 and step.is_done:
        return
    if code == EXIT_REQUEUE:
        raise StoppedEarly(f"{step.name} stopped on request and saved; the same command resumes it")
    last = log_file.read_text(encoding="utf-8").splitlines()[-_ERROR_LINES:]
    error = UserError(f"{step.name} failed (exit code {code}); its log {log_file} ends with:", *last)
    raise error if code == EXIT_USER else RuntimeError(str(error))
