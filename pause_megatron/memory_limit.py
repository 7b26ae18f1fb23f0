"""Runs a command in a child process if a limit is set on the memory of a process (``ulimit -v``).

A library that finds no memory may abort, in a C++ thread (``std::bad_alloc``), in Rust or in OpenMP, and no Python code
of that process can catch it. The parent, which imports nothing large, then reports it on one line. Without a limit
there is no child.
"""

import ctypes
import os
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from pause_megatron import log
from pause_megatron.errors import EXIT_INTERNAL, EXIT_USER, MEMORY_ADVICE

_ABORTS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_DEATH_TEXT = re.compile(
    r"terminate called |  what\(\): |libgomp: |OpenBLAS |memory allocation of \d+ bytes failed|Fatal Python error"
)
"""Start of the lines that libraries print before they end the process."""
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
_LINEAR_ALGEBRA_BYTES = 300 << 20
"""Address space for NumPy and SciPy: their OpenBLAS asks for memory for ever if it gets none when it is loaded."""


def memory_limit() -> int | None:
    """Return the limit on the memory of this process in bytes, the lowest of ``ulimit -v`` and ``-d``; None without."""
    limits = [resource.getrlimit(each)[0] for each in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)


def run_within_memory_limit(action: Callable[[], int], *, clean_up: Callable[[], None]) -> int:
    """Return the exit code of ``action``; if a library aborts it under a limit, print one line and ``clean_up``.

    Under a limit it runs in a child process, which gets the signals of this process and ends with it.
    """
    limit = memory_limit()
    if limit is None:
        return action()
    reader, writer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_FORWARDED, signal.SIGCHLD))
    child = os.fork()
    if not child:
        os.close(reader)
        _run_as_child(action, before, writer)
    os.close(writer)
    try:
        relay = _Relay(reader)
        relay.start()
        code = _wait(child)
        relay.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    last_words = " ".join(relay.held_back.split())
    if -code not in _ABORTS and not (code == EXIT_INTERNAL and last_words):
        sys.stderr.write(relay.held_back)
        return code if code >= 0 else 128 - code
    how = f"{signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    clean_up()
    log.write_line(
        f"error: memory: a library ended this command ({how}{': ' if last_words else ''}{last_words[:100]}) under the"
        f" limit of {limit / 1e6:.0f} MB; {MEMORY_ADVICE}"
    )
    return EXIT_USER


def _run_as_child(action: Callable[[], int], signal_mask: set[int], stderr: int) -> None:
    code = EXIT_INTERNAL
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        os.dup2(stderr, 2)
        os.close(stderr)
        signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)
        code = action() if _load_linear_algebra() else EXIT_USER
    except BaseException:
        traceback.print_exc()
    finally:
        for file in (sys.stdout, sys.stderr):
            file.flush()
        os._exit(code)


def _load_linear_algebra() -> bool:
    """Load OpenBLAS while there is memory for it; print a line and return False if there is too little."""
    limit, taken = resource.getrlimit(resource.RLIMIT_AS)[0], _address_space()
    if limit != resource.RLIM_INFINITY and limit - taken < _LINEAR_ALGEBRA_BYTES:
        log.write_line(
            f"error: memory: the limit of {limit / 1e6:.0f} MB leaves {(limit - taken) / 1e6:.0f} MB for libraries,"
            f" which need {_LINEAR_ALGEBRA_BYTES / 1e6:.0f} MB and more; {MEMORY_ADVICE}"
        )
        return False
    with suppress(ImportError):  # SciPy is only for some commands
        for name in ("numpy", "scipy.linalg"):
            import_module(name)
    return True


def _address_space() -> int:
    """Return the bytes of address space that this process has taken; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _wait(child: int) -> int:
    """Wait for ``child`` and forward signals to it; return its exit code, the negative number of a signal."""
    while True:
        received = signal.sigwaitinfo((*_FORWARDED, signal.SIGCHLD))
        if received.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        elif received.si_code <= 0:  # from a process: the terminal sends Ctrl-C to both
            os.kill(child, received.si_signo)


class _Relay(threading.Thread):
    """Copies the child's standard error, except the lines with which libraries end the process."""

    def __init__(self, reader: int) -> None:
        super().__init__(daemon=True)
        self.held_back = ""
        self._reader = reader

    def run(self) -> None:
        """Copy until the end."""
        with open(self._reader, encoding="utf-8", errors="replace", newline="") as lines:
            for line in lines:
                if _DEATH_TEXT.match(line):
                    self.held_back += line
                else:
                    sys.stderr.write(line)
                    sys.stderr.flush()
