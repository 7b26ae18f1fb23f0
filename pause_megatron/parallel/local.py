"""Starts the processes of a run on this machine: the laptop's ``torchrun``, without its traceback."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from pause_megatron.children import available_cores, start_child
from pause_megatron.parallel.launcher import free_port

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0


def run_local_processes(arguments: Sequence[str], count: int) -> int:
    """Run ``python -m pause_megatron ARGUMENTS`` in ``count`` processes that form one run.

    Returns:
        The first exit code that is not 0, after the other processes were ended; 0 when all succeed. A signal that ended
        a process counts as 128 + its number, as in a shell.
    """
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    if "OMP_NUM_THREADS" not in os.environ:  # every process taking all cores slows all of them down
        common["OMP_NUM_THREADS"] = str(max(available_cores() // count, 1))
    children = [
        start_child(
            [sys.executable, "-m", "pause_megatron", *arguments],
            {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while True:
            codes = [child.poll() for child in children]
            failed = next((code for code in codes if code), None)
            if failed is not None:
                return failed if failed > 0 else 128 - failed
            if all(code == 0 for code in codes):
                return 0
            time.sleep(_POLL_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, previous)
        for child in children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for child in children:
            try:
                child.wait(max(deadline - time.monotonic(), 0.0))
            except Exception:  # it did not end in time
                child.kill()
                child.wait()
