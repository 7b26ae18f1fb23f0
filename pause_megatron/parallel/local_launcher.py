"""Starts the processes of a run on this machine, like ``torchrun`` but without its traceback.

Stop signals are forwarded; the launcher then waits for the processes to save, however long that takes. If one process
fails, the launcher kills the others at once, since they cannot continue; incomplete files have only temporary names.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from pause_megatron import log
from pause_megatron.children import available_cores, start_child
from pause_megatron.config.parallel import DEVICE_VARIABLE, DeviceChoice
from pause_megatron.errors import EXIT_DONE, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_LOST_PROCESS, EXIT_REQUEUE, EXIT_USER
from pause_megatron.parallel.launcher import resolve_device_choice
from pause_megatron.parallel.signals import stop_signals_held_back, stop_signals_to

_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 1.0
"""Wait after a failure: other processes may fail too, and the first one seen may be a consequence of another."""
_MOST_INFORMATIVE_FIRST = (EXIT_USER, EXIT_INTERNAL, EXIT_LOST_PROCESS)

PAUSE_MEGATRON = (sys.executable, "-m", "pause_megatron")

_Child = subprocess.Popen[str]


def run_local_processes(
    arguments: Sequence[str],
    count: int,
    program: Sequence[str] = PAUSE_MEGATRON,
    *,
    device_choice: DeviceChoice = "auto",
) -> int:
    """Run ``program`` with ``arguments`` in ``count`` processes that form one run, and wait for them.

    They compute on the CPU unless each gets its own GPU; GPUs are hidden from processes on the CPU.

    Stop signals sent to this process are forwarded to all of them: ``SIGINT`` as ``SIGTERM``, because on Ctrl-C the
    terminal sends ``SIGINT`` to the processes too. A second Ctrl-C kills them. If a signal ends a process, one line on
    standard error names its rank.

    Returns 0 if all succeed, :data:`EXIT_REQUEUE` if they stopped early, :data:`EXIT_LOST_PROCESS` if a signal ended
    one; otherwise the exit code of a failed process, a user's error first. Raises :class:`UserError` if the device of
    ``device_choice`` cannot be used.
    """
    device = resolve_device_choice(device_choice)
    if device != "cpu":
        from pause_megatron.parallel.process_device import device_of_local_processes  # imports PyTorch
        from pause_megatron.parallel.visible_gpus import find_visible_gpus

        gpus = find_visible_gpus()
        device = device_of_local_processes(device, gpus, count)
        if gpus.count and device == "cpu":
            log.info(f"{count} processes compute on the CPU, because this machine has only {gpus.count} GPUs")
    received: list[int] = []
    with _reserved_port() as reserved:
        with stop_signals_held_back():  # the children inherit it, so no signal is lost while they start
            children = _start([*program, *arguments], count, reserved.getsockname()[1], device)
        try:
            with stop_signals_to(lambda number, _: received.append(number)):
                return _wait(children, received)
        finally:
            for child in children:
                child.kill()
                child.wait()


def _reserved_port() -> socket.socket:
    """Bind a socket to the rendezvous port, so that only rank 0, which sets ``SO_REUSEADDR`` too, can listen on it.

    The children import libraries for seconds before they listen. Other programs have taken unreserved ports meanwhile.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def _start(command: Sequence[str], count: int, port: int, device: DeviceChoice) -> list[_Child]:
    common = {
        DEVICE_VARIABLE: device,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if device == "cpu":
        common["CUDA_VISIBLE_DEVICES"] = ""
    if "OMP_NUM_THREADS" not in os.environ:  # otherwise every process uses all cores, which slows all of them down
        common["OMP_NUM_THREADS"] = str(max(available_cores() // count, 1))
    return [start_child(command, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


def _wait(children: Sequence[_Child], received: Sequence[int]) -> int:
    """Forward the signals in ``received``, which a handler extends, until all ``children`` end or one fails."""
    forwarded = 0
    while True:
        for number in received[forwarded:]:
            for child in children:
                child.send_signal(signal.SIGTERM if number == signal.SIGINT else number)
            forwarded += 1
        if received.count(signal.SIGINT) > 1:
            return EXIT_INTERRUPTED
        codes = [child.poll() for child in children]
        if failed := [code for code in codes if code not in (None, EXIT_DONE, EXIT_REQUEUE)]:
            if min(failed) > 0:  # otherwise a signal ended one of them, which is the cause
                time.sleep(_SETTLE_SECONDS)
            return _failure(child.poll() for child in children)
        if None not in codes:
            return EXIT_REQUEUE if EXIT_REQUEUE in codes else EXIT_DONE
        time.sleep(_POLL_SECONDS)


def _failure(codes: Iterable[int | None]) -> int:
    """Name the processes that signals ended, and return the most informative exit code."""
    failed = {rank: code for rank, code in enumerate(codes) if code not in (None, EXIT_DONE, EXIT_REQUEUE)}
    names = {number.value: number.name for number in signal.Signals}
    ended = {rank: names.get(-code, f"signal {-code}") for rank, code in failed.items() if code < 0}
    for rank, name in ended.items():
        log.write_line(f"rank {rank} was ended by {name}")
    if ended:
        return EXIT_LOST_PROCESS
    return next((code for code in _MOST_INFORMATIVE_FIRST if code in failed.values()), next(iter(failed.values())))
