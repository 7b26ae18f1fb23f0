"""Monitor thread of :mod:`~pause_megatron.parallel.heartbeat`: sends heartbeats, and exits when another process dies.

Rank 0 has a TCP connection to every other process and exchanges heartbeats on each of them every few seconds. The
kernel closes the connections of a process that ends, however it ends, so a crash is noticed at once. If a process is
stopped, or its machine loses power or network, its heartbeats stop and it counts as dead after a timeout.

Only time in which this thread runs counts toward the timeout. If all processes are stopped for an hour and then
continue, none counts as dead.
"""

import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pause_megatron import log
from pause_megatron.errors import EXIT_DONE, EXIT_LOST_PROCESS, EXIT_REQUEUE
from pause_megatron.parallel.json_socket import JsonSocket, Message

EXIT_GRACE_SECONDS = 3.0
"""After a process leaves with an error, the others have this long to exit by themselves, often for the same reason."""
_ORDERLY_EXITS = (EXIT_DONE, EXIT_REQUEUE)
"""Exit codes with which a process leaves only when all others do."""
_BROADCAST_SECONDS = 2.0
_MAX_REASON_CHARACTERS = 1000
_MAX_STRANGERS = 16
"""Connections without a token that rank 0 keeps, in addition to one for each process."""


@dataclass(frozen=True)
class ProcessAddress:
    """Rank, host and process id of a process, with which a person can find it."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


@dataclass
class Peer:
    """Another process as seen by this one."""

    address: ProcessAddress
    connection: JsonSocket | None = None
    """None until it connects."""
    silence: float = 0.0
    """Seconds since its last message."""
    exit_code: int | None = None
    """Exit code it reported; None while it runs."""
    exit_reason: str = ""
    """Error it reported with its exit code."""

    def fault(self, timeout: float) -> tuple[int, str] | None:
        """Return the exit code and log line that must end the run because of this process; None if it is healthy.

        ``timeout``: seconds of silence after which the process counts as dead.
        """
        if self.exit_code is not None:
            if self.exit_code in _ORDERLY_EXITS or self.silence < EXIT_GRACE_SECONDS:
                return None
            return self.exit_code, f"{self.address} has left with exit code {self.exit_code}: {self.exit_reason}"
        is_connected = self.connection is None or self.connection.is_open
        if is_connected and self.silence < timeout:
            return None
        event = f"has sent no heartbeat for {timeout:g} s" if is_connected else "was killed or has crashed"
        line = f"{self.address} {event}; the same command resumes from the newest checkpoint"
        return EXIT_LOST_PROCESS, f"{line} (exit code {EXIT_LOST_PROCESS})"


class PeerMonitor(threading.Thread):
    """Monitors all other processes on rank 0; on other ranks monitors rank 0, which reports the others' deaths."""

    def __init__(
        self,
        rank: int,
        processes: Sequence[ProcessAddress],
        link: socket.socket | JsonSocket,
        *,
        token: str,
        interval: float,
        timeout: float,
    ) -> None:
        """
        Args:
            rank: this process's rank.
            processes: all processes of the run, in rank order.
            link: on rank 0 the listening socket; on other ranks the connection to rank 0.
            token: secret that a process must send when it connects.
            interval: seconds between two heartbeats.
            timeout: seconds of silence after which a process counts as dead; may be changed later.
        """
        super().__init__(name="heartbeat", daemon=True)
        self.timeout = timeout
        self._interval = interval
        self._is_rank_0 = rank == 0
        self._token = token
        self._peers = {other.rank: Peer(other) for other in (processes[1:] if self._is_rank_0 else processes[:1])}
        self._peer_at: dict[JsonSocket, Peer] = {}
        self._strangers: list[JsonSocket] = []  # connections that have not sent the token yet
        # If rank 0 dies, the lowest other rank of each machine logs it.
        same_host = (other.rank for other in processes[1:] if other.host == processes[rank].host)
        self._logs = self._is_rank_0 or rank == next(same_host)
        self._farewell: Message | None = None
        self._waker, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_wake)
        if isinstance(link, JsonSocket):
            self._identify(link, self._peers[0])
            self._read_from(link)
            link.send({"rank": rank, "token": token})
        else:
            self._selector.register(link, selectors.EVENT_READ, partial(self._on_connect, link))

    def leave(self, exit_code: int, reason: str) -> None:
        """Report that this process exits, and stop the thread; rank 0 first waits for the others' orderly exit."""
        self._farewell = {"exit_code": exit_code, "exit_reason": reason[:_MAX_REASON_CHARACTERS]}
        with suppress(OSError):  # the thread may have seen the farewell already and stopped
            self._waker.send(b"\0")
        self.join()

    def run(self) -> None:
        """Exchange heartbeats until :meth:`leave` is called or another process fails."""
        since = time.monotonic()
        while self._farewell is None:
            since = self._beat(since)
        self._broadcast(self._farewell)
        give_up = time.monotonic() + self.timeout
        while self._is_rank_0 and self._farewell["exit_code"] in _ORDERLY_EXITS and time.monotonic() < give_up:
            if all(peer.exit_code is not None for peer in self._peers.values()):
                break
            since = self._beat(since)
        for connection in self._peer_at:
            connection.receive()  # closing a socket with unread bytes resets it, which could discard our farewell
        for key in self._selector.get_map().values():
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _beat(self, since: float) -> float:
        """Send one heartbeat, listen for an interval, and check all peers; returns the time of the check."""
        self._broadcast({})
        self._listen(self._interval)
        now = time.monotonic()
        for peer in self._peers.values():
            peer.silence += min(now - since, 2 * self._interval)  # more than that: this process was stopped
            if fault := peer.fault(self.timeout):
                self._end_run(*fault)
        return now

    def _broadcast(self, message: Message) -> None:
        for connection in self._peer_at:
            connection.send(message)

    def _listen(self, seconds: float) -> None:
        """Handle events for ``seconds``, or until one of them is more than a heartbeat."""
        until = time.monotonic() + seconds
        while not any(key.data() for key, _ in self._selector.select(max(until - time.monotonic(), 0.0))):
            if time.monotonic() >= until:
                return

    def _read_from(self, connection: JsonSocket) -> None:
        self._selector.register(connection.link, selectors.EVENT_READ, partial(self._on_message, connection))

    # Event handlers. Each returns whether the event was more than a heartbeat.

    def _on_wake(self) -> bool:
        self._woken.recv(1)
        return True

    def _on_connect(self, server: socket.socket) -> bool:
        connection = JsonSocket(server.accept()[0])
        self._read_from(connection)
        self._strangers.append(connection)
        if len(self._strangers) > len(self._peers) + _MAX_STRANGERS:
            self._forget(self._strangers[0])  # before connections take all file descriptors of this process
        return False

    def _on_message(self, connection: JsonSocket) -> bool:
        messages = connection.receive()
        if connection in self._strangers:
            if not messages and connection.is_open:
                return False
            if not messages or messages[0].get("token") != self._token:
                self._forget(connection)
                return False
            self._strangers.remove(connection)
            self._identify(connection, self._peers[messages[0]["rank"]])
        for message in messages:
            self._update(self._peer_at[connection], message)
        if not connection.is_open:
            self._selector.unregister(connection.link)
            return True
        return self._peer_at[connection].exit_code is not None

    def _forget(self, stranger: JsonSocket) -> None:
        self._strangers.remove(stranger)
        self._selector.unregister(stranger.link)
        stranger.close()

    def _identify(self, connection: JsonSocket, peer: Peer) -> None:
        peer.connection, self._peer_at[connection] = connection, peer

    def _update(self, peer: Peer, message: Message) -> None:
        if "exit_run" in message:
            _exit(message["exit_run"])
        peer.silence = 0.0
        peer.exit_code = message.get("exit_code", peer.exit_code)
        peer.exit_reason = message.get("exit_reason", peer.exit_reason)

    def _end_run(self, exit_code: int, line: str) -> None:
        """Exit this process and, from rank 0, all others."""
        if self._logs:
            log.write_line(line)
        if self._is_rank_0:
            self._broadcast({"exit_run": exit_code})
            until = time.monotonic() + _BROADCAST_SECONDS
            while any(connection.is_open for connection in self._peer_at) and time.monotonic() < until:
                self._listen(until - time.monotonic())
        _exit(exit_code)


def _exit(exit_code: int) -> None:
    """Exit at once, although the main thread may hang in a collective."""
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(exit_code)
