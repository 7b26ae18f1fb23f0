"""A process that dies or freezes ends the whole run within a timeout, and one line names it.

The exchanges of a process group cannot say who is missing: gloo reports a closed connection in its own terms, NCCL
waits. So a thread of each process (:mod:`~pause_megatron.parallel.peer_monitor`) talks to rank 0's beside the groups,
whatever the main thread is waiting for.

The thread needs Python's interpreter lock for some microseconds every few seconds. Computing, communicating and writing
checkpoints release it; shuffling the index of many millions of documents holds it for minutes, which is why silence is
borne with for longer until :meth:`Heartbeat.watch_closely` is called.
"""

from __future__ import annotations

import os
import socket
import uuid
from types import TracebackType
from typing import Self

import torch.distributed as dist

from pause_megatron.config.faults import FaultsConfig
from pause_megatron.errors import EXIT_USER, StoppedEarly, UserError, exit_code
from pause_megatron.parallel import collectives
from pause_megatron.parallel.json_socket import Connection, listen
from pause_megatron.parallel.launcher import Launch
from pause_megatron.parallel.peer_monitor import LAST_WORDS_SECONDS, Process, Watch

_LONGEST_INTERVAL = 2.0
_BEATS_IN_TIMEOUT = 10
_MARGIN_SECONDS = 5.0


class Heartbeat:
    """Watches over the processes of a run while its block is executed; all of them enter it together.

    A process that leaves the block says so, with the exit code that its exception leads to. One that vanishes without a
    word ends the others with :data:`~pause_megatron.errors.EXIT_LOST_PROCESS`, one that leaves with an error ends them
    with its exit code, should they not end by themselves.
    """

    def __init__(self, launch: Launch, faults: FaultsConfig) -> None:
        self._launch = launch
        self._timeout = faults.dead_rank_timeout
        self._patience = max(faults.collective_timeout * 60, self._timeout)
        self._watch: Watch | None = None

    def __enter__(self) -> Self:
        if self._launch.world_size > 1:
            interval = min(_LONGEST_INTERVAL, self._timeout / _BEATS_IN_TIMEOUT)
            self._watch = _start(self._launch, interval=interval, timeout=self._patience)
        return self

    def watch_closely(self) -> None:
        """From now on silence of ``dead_rank_timeout`` seconds is death; before, it was ``collective_timeout`` minutes.

        To be called in every process when the first step is about to begin.
        """
        if self._watch:
            self._watch.timeout = self._timeout

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._watch:
            return
        if is_of_an_exchange(error):
            # Somebody is missing, most likely: the thread ends this process as soon as it knows who.
            self._watch.join(self._timeout + LAST_WORDS_SECONDS + _MARGIN_SECONDS)
        self._watch.leave(exit_code(error), _one_line(error))


def is_of_an_exchange(error: BaseException | None) -> bool:
    """Whether ``error`` is how an exchange of a process group fails, as one does when a process is missing."""
    if isinstance(error, dist.DistError):  # NCCL's and the store's
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _start(launch: Launch, *, interval: float, timeout: float) -> Watch:
    """Introduce all processes to each other, connect them to rank 0, and start watching.

    Raises :class:`UserError` in every process when one cannot connect.
    """
    processes = collectives.gather_from_ranks(Process(launch.rank, socket.gethostname(), os.getpid()))
    door = listen(locally=launch.single_node) if launch.rank == 0 else None
    token, port = collectives.broadcast_from_rank_0((uuid.uuid4().hex, door.getsockname()[1]) if door else None)
    watch, failure = None, None
    try:
        link = door or Connection.to("127.0.0.1" if launch.single_node else launch.master_addr, port)
        watch = Watch(launch.rank, processes, link, token=token, interval=interval, timeout=timeout)
        watch.start()
    except OSError as error:
        failure = (
            f"{processes[launch.rank]} cannot connect to rank 0 at {launch.master_addr}, port {port}: {error}; "
            "set MASTER_ADDR to rank 0's machine, and let the machines of a run connect to each other's ports"
        )
    try:
        collectives.raise_on_all_ranks(failure)
    except UserError as error:
        if watch:
            watch.leave(EXIT_USER, str(error))
        raise
    assert watch
    return watch


def _one_line(error: BaseException | None) -> str:
    if error is None:
        return ""
    line = " ".join(str(error).split())
    return line if isinstance(error, UserError | StoppedEarly) else f"{type(error).__name__}: {line}"
