"""Heartbeats: if one process of a run dies or hangs, all others exit within a timeout, and one line names it.

Collectives cannot report who is missing: gloo reports a closed connection, and NCCL hangs. Each process therefore runs
a thread (:mod:`~pause_megatron.parallel.peer_monitor`) that talks to rank 0's thread over TCP, whatever the main thread
waits for. Shuffling an index of many millions of documents holds Python's interpreter lock for minutes and thereby
stops the thread, so the timeout is longer until :meth:`Heartbeat.shorten_timeout` is called.
"""

import os
import socket
import uuid
from types import TracebackType
from typing import Self

import torch.distributed as dist

from pause_megatron.config.training import FaultsConfig
from pause_megatron.errors import EXIT_USER, StoppedEarly, UserError, exit_code, one_line
from pause_megatron.parallel import collectives
from pause_megatron.parallel.json_socket import JsonSocket, listen
from pause_megatron.parallel.launcher import Launch
from pause_megatron.parallel.peer_monitor import EXIT_GRACE_SECONDS, PeerMonitor, ProcessAddress

_MAX_INTERVAL_SECONDS = 2.0
_BEATS_PER_TIMEOUT = 10
_MARGIN_SECONDS = 5.0


class Heartbeat:
    """Context manager that monitors the processes of a run; all processes must enter it together.

    A process that leaves the block reports its exit code. If it leaves with an error, the others exit with the same
    code unless they exit by themselves. If a process vanishes without a report, the others exit with
    :data:`~pause_megatron.errors.EXIT_LOST_PROCESS`.
    """

    def __init__(self, launch: Launch, faults: FaultsConfig) -> None:
        self._launch = launch
        self._timeout = faults.dead_rank_timeout
        self._first_timeout = max(faults.collective_timeout * 60, self._timeout)
        self._monitor: PeerMonitor | None = None

    def __enter__(self) -> Self:
        if self._launch.world_size > 1:
            interval = min(_MAX_INTERVAL_SECONDS, self._timeout / _BEATS_PER_TIMEOUT)
            self._monitor = _start(self._launch, interval=interval, timeout=self._first_timeout)
        return self

    def shorten_timeout(self) -> None:
        """Shorten the timeout from ``collective_timeout`` (minutes) to ``dead_rank_timeout`` (seconds).

        Every process must call this when its first training step is about to begin.
        """
        if self._monitor:
            self._monitor.timeout = self._timeout

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._monitor:
            return
        if is_collective_failure(error):
            # Most likely a process is missing: the monitor ends this process as soon as it knows which one.
            self._monitor.join(self._timeout + EXIT_GRACE_SECONDS + _MARGIN_SECONDS)
        self._monitor.leave(exit_code(error), _description(error))


def is_collective_failure(error: BaseException | None) -> bool:
    """Return whether ``error`` is how a collective fails, for example because a process is missing."""
    if isinstance(error, dist.DistError):  # raised by NCCL and by the rendezvous store
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _start(launch: Launch, *, interval: float, timeout: float) -> PeerMonitor:
    """Exchange addresses, connect every process to rank 0, and start the monitors.

    Raises :class:`UserError` in every process if one cannot connect.
    """
    own_address = ProcessAddress(launch.rank, socket.gethostname(), os.getpid())
    processes = collectives.gather_from_ranks(own_address, ProcessAddress)
    server = listen(locally=launch.single_node) if launch.rank == 0 else None
    own_door = (uuid.uuid4().hex, server.getsockname()[1]) if server else None
    token, port = collectives.broadcast_from_rank_0(own_door, tuple[str, int])
    monitor, failure = None, None
    try:
        link = server or JsonSocket.connect("127.0.0.1" if launch.single_node else launch.master_addr, port)
        monitor = PeerMonitor(launch.rank, processes, link, token=token, interval=interval, timeout=timeout)
        monitor.start()
    except OSError as error:
        failure = (
            f"MASTER_ADDR {launch.master_addr}: {processes[launch.rank]} cannot connect to rank 0 at port {port}:"
            f" {error}; set it to rank 0's machine, and allow connections between the machines of a run on all ports"
        )
    try:
        collectives.raise_on_all_ranks(failure)
    except UserError as error:
        if monitor:
            monitor.leave(EXIT_USER, str(error))
        raise
    assert monitor
    return monitor


def _description(error: BaseException | None) -> str:
    if error is None:
        return ""
    return (
        one_line(error) if isinstance(error, UserError | StoppedEarly) else f"{type(error).__name__}: {one_line(error)}"
    )
