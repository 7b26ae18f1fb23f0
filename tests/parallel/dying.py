"""Groups of processes that tests may kill or stop; each process writes its standard error to its own file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pause_megatron.errors import EXIT_DONE, EXIT_INTERNAL, exit_code
from pause_megatron.parallel.ports import free_port
from tests.distributed import TIMEOUT_SECONDS

_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Group:
    """Running processes, by rank."""

    folder: Path
    processes: tuple[BaseProcess, ...]

    def send(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one process."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait_for(self, name: str) -> None:
        """Wait until every process has called :func:`say` with ``name``."""
        for rank, process in enumerate(self.processes):
            while not (self.folder / f"{name}.{rank}").exists():
                process.join(0.02)
                assert process.exitcode is None, self.said()

    def has_ended(self) -> bool:
        """Whether a process has ended."""
        return any(process.exitcode is not None for process in self.processes)

    def exit_codes(self, but: int | None = None) -> list[int | None]:
        """Exit codes of all processes, or all ``but`` one; None for a process that still runs after a long time."""
        codes = []
        for rank, process in enumerate(self.processes):
            if rank != but:
                process.join(TIMEOUT_SECONDS)
                codes.append(process.exitcode)
        return codes

    def said(self) -> str:
        """Standard error of all processes."""
        return "".join((self.folder / f"stderr.{rank}").read_text() for rank in range(len(self.processes)))


@contextmanager
def run_group(folder: Path, world_size: int, function: Callable[..., None], *arguments: Any) -> Iterator[Group]:
    """Run ``function(*arguments)`` in ``world_size`` processes of one run; kill those that are left at the end.

    Each ends with the exit code that the command line would give, after printing the error.
    """
    environment = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    folder.mkdir(exist_ok=True)
    processes = tuple(
        _CONTEXT.Process(
            target=_member,
            args=(folder, {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, function, arguments),
        )
        for rank in range(world_size)
    )
    for process in processes:
        process.start()
    try:
        yield Group(folder, processes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def say(folder: Path, name: str) -> None:
    """Tell the test that this process has reached the point ``name``; see :meth:`Group.wait_for`."""
    (folder / f"{name}.{dist.get_rank()}").touch()


def _member(
    folder: Path, environment: dict[str, str], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    stderr = os.open(folder / f"stderr.{environment['RANK']}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(stderr, 2)
    torch.set_num_threads(1)
    code = EXIT_DONE
    try:
        function(*arguments)
    except BaseException as error:
        code = exit_code(error)
        traceback.print_exc() if code == EXIT_INTERNAL else print(error, file=sys.stderr, flush=True)
    os._exit(code)
