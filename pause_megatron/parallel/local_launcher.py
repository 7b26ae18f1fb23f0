"""Starts the processes of a run on this machine: the laptop's ``torchrun``, without its traceback.

Requests to stop are passed on, and then the run's own end is waited for, however long its saving takes. When a process
fails, the others cannot go on without it and are ended at once; whatever they were writing has no final name yet.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from pause_megatron.children import available_cores, start_child
from pause_megatron.errors import (
    EXIT_DONE,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_LOST_PROCESS,
    EXIT_REQUEUE,
    EXIT_USER,
)
from pause_megatron.parallel.signals import stop_signals_held_back, stop_signals_to

_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 1.0
"""How long a failure waits for others: the first one seen may be a consequence of another."""
_CAUSES_FIRST = (EXIT_USER, EXIT_INTERNAL, EXIT_LOST_PROCESS)

PAUSE_MEGATRON = (sys.executable, "-m", "pause_megatron")

_Child = subprocess.Popen[str]


def run_local_processes(arguments: Sequence[str], count: int, program: Sequence[str] = PAUSE_MEGATRON) -> int:
    """Run ``program`` with ``arguments`` in ``count`` processes that form one run, and wait for its end.

    Stop signals sent to this process reach all of them, Ctrl-C as ``SIGTERM``, since a terminal has sent them that
    already; pressed again it ends them. A process that a signal ended is named on standard error.

    Returns:
        0 when all succeed; :data:`EXIT_REQUEUE` when they stopped early; :data:`EXIT_LOST_PROCESS` when a signal ended
        one; else the exit code of one that failed, a user's error first.
    """
    asked: list[int] = []
    with _reserved_port() as reserved:
        with stop_signals_held_back():  # from their birth, so that none is lost while they start
            children = _start([*program, *arguments], count, reserved.getsockname()[1])
        try:
            with stop_signals_to(lambda number, _: asked.append(number)):
                return _wait(children, asked)
        finally:
            for child in children:
                child.kill()
                child.wait()


def _reserved_port() -> socket.socket:
    """A socket at a port that rank 0 may listen on, and that the system gives to nobody else as long as it is open.

    Between now and then lie the children's imports, in which a port that was merely free has been taken by others.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def _start(command: Sequence[str], count: int, port: int) -> list[_Child]:
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if "OMP_NUM_THREADS" not in os.environ:  # every process taking all cores slows all of them down
        common["OMP_NUM_THREADS"] = str(max(available_cores() // count, 1))
    return [start_child(command, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


def _wait(children: Sequence[_Child], asked: Sequence[int]) -> int:
    """Pass on what is ``asked`` of this process until all ``children`` have ended well, or one has not."""
    passed_on = 0
    while True:
        for number in asked[passed_on:]:
            _send(children, signal.SIGTERM if number == signal.SIGINT else number)
            passed_on += 1
        if asked.count(signal.SIGINT) > 1:
            return EXIT_INTERRUPTED
        codes = [child.poll() for child in children]
        if failed := [code for code in codes if code is not None and _is_failure(code)]:
            if min(failed) > 0:  # else a signal ended one of them, which needs no other cause
                time.sleep(_SETTLE_SECONDS)
            return _failure(child.poll() for child in children)
        if None not in codes:
            return EXIT_REQUEUE if EXIT_REQUEUE in codes else EXIT_DONE
        time.sleep(_POLL_SECONDS)


def _send(children: Iterable[_Child], number: int) -> None:
    for child in children:
        child.send_signal(number)


def _is_failure(code: int) -> bool:
    return code not in (EXIT_DONE, EXIT_REQUEUE)


def _failure(codes: Iterable[int | None]) -> int:
    """Name the processes that signals ended, and find the exit code that says most about what went wrong."""
    failed = {rank: code for rank, code in enumerate(codes) if code is not None and _is_failure(code)}
    names = {number.value: number.name for number in signal.Signals}
    ended = {rank: names.get(-code, f"signal {-code}") for rank, code in failed.items() if code < 0}
    for rank, name in ended.items():
        print(f"rank {rank} was ended by {name}", file=sys.stderr, flush=True)
    if ended:
        return EXIT_LOST_PROCESS
    return next((code for code in _CAUSES_FIRST if code in failed.values()), next(iter(failed.values())))
