"""Runs commands of this project in the background: as forks of one process that has imported their libraries, or anew.

Importing the Hugging Face libraries takes longer than a short job. This process imports them once and never uses them;
a fork of it begins where ``python -m pause_megatron COMMAND`` stands after its imports, and is otherwise the same: it
has its own memory, ends with its parent, and returns the command's exit code.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from pause_megatron import log
from pause_megatron.children import PARENT_PIPE, start_child
from pause_megatron.errors import EXIT_INTERNAL, exit_code
from pause_megatron.experiments.steps import QUIET_CHILD
from pause_megatron.parallel.signals import STOP_SIGNALS

_LIBRARIES = ("pause_megatron.downstream.finetune", "pause_megatron.downstream.evaluate")


class Commands(Protocol):
    """A way to run commands in the background."""

    def start(self, action: Sequence[str], log_file: Path) -> int:
        """Run ``["-m", "pause_megatron", COMMAND, FLAG, ...]``, which prints to ``log_file``; return its process id."""


class StartedCommands:
    """Every command in a new process."""

    def __init__(self, threads: int) -> None:
        """Each command computes on ``threads`` cores, unless the environment says otherwise."""
        _set_environment(threads)
        self._children: list[subprocess.Popen[str]] = []  # kept, or Python would collect their exit codes itself

    def start(self, action: Sequence[str], log_file: Path) -> int:
        """See :class:`Commands`."""
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(log_file, "w", encoding="utf-8") as file:
            child = start_child([sys.executable, *action], {}, stdout=file, stderr=subprocess.STDOUT)
        self._children.append(child)
        return child.pid


class ForkedCommands:
    """A process's forks. It must have no thread of its own and must not have computed anything with PyTorch."""

    def __init__(self, threads: int) -> None:
        """Import the libraries. Each fork computes on ``threads`` cores, unless the environment says otherwise."""
        _set_environment(threads)
        # CUDA cannot be used in a fork once the parent has started it, as asking whether there is a GPU else would.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        for library in _LIBRARIES:
            importlib.import_module(library)
        gc.freeze()  # a fork's collector then leaves the shared pages alone
        self._pipe = os.pipe()  # forks read; this process holds the other end for as long as it lives

    def start(self, action: Sequence[str], log_file: Path) -> int:
        """See :class:`Commands`."""
        log_file.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # Between the fork and its own signal handlers a request to stop would be taken by a copy of this process's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._run(action, log_file)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self, action: Sequence[str], log_file: Path) -> NoReturn:
        code = EXIT_INTERNAL
        try:
            self._become_a_command(action, log_file)
            runpy.run_module(action[1], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = exit_code(end)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _become_a_command(self, action: Sequence[str], log_file: Path) -> None:
        """Give the fork its own standard streams, arguments, clock and signals."""
        reading, writing = self._pipe
        os.dup2(reading, 0)
        os.close(reading)
        os.close(writing)
        descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open for the life of the process, as the next two
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.argv = [action[1], *action[2:]]
        os.environ[PARENT_PIPE] = "1"
        log.restart_clock()
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _set_environment(threads: int) -> None:
    """What commands and PyTorch, when it is imported, read."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Threads that wait by spinning make a small model many times slower where other work shares their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(QUIET_CHILD)
