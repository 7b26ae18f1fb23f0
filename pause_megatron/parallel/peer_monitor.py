"""The thread behind :mod:`~pause_megatron.parallel.heartbeat`: tells that its process lives, and ends it when one died.

Rank 0 holds a connection to every other process, and every few seconds something is said on each, both ways. The
kernel closes the connections of a process that ends, however it ends, so a death shows at once, on any machine. A
process that was stopped, or whose machine lost its power or network, falls silent, which shows after a while.

Of a silence only the time in which this thread itself was running is counted: when all processes are stopped for an
hour and go on, none is taken for dead.
"""

from __future__ import annotations

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

from pause_megatron.errors import EXIT_DONE, EXIT_LOST_PROCESS, EXIT_REQUEUE
from pause_megatron.parallel.json_socket import Connection, Message

_LINGER_SECONDS = 2.0
_LONGEST_WORDS = 1000


ORDERLY = (EXIT_DONE, EXIT_REQUEUE)
"""Exit codes of a process that leaves when all others do."""
LAST_WORDS_SECONDS = 3.0
"""How long the others have to come to an end of their own when a process has left with an error, often theirs too."""


@dataclass(frozen=True)
class Process:
    """A process of the run, as a person can find it."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


@dataclass
class Peer:
    """Another process, as far as it has been heard of."""

    process: Process
    connection: Connection | None = None
    """None while it has yet to connect."""
    silence: float = 0.0
    """Seconds in which nothing was heard of it."""
    exit_code: int | None = None
    """What it has said it leaves with."""
    last_words: str = ""
    """Why it leaves."""

    def fault(self, timeout: float) -> tuple[int, str] | None:
        """The exit code and the line that end the run because of this process; None while nothing does.

        ``timeout``: seconds of silence after which it counts as dead.
        """
        if self.exit_code is not None:
            if self.exit_code in ORDERLY or self.silence < LAST_WORDS_SECONDS:
                return None
            return self.exit_code, f"{self.process} has left with exit code {self.exit_code}: {self.last_words}"
        is_there = self.connection is None or self.connection.is_open
        if is_there and self.silence < timeout:
            return None
        what = f"has given no sign of life for {timeout:g} s" if is_there else "was killed or has crashed"
        line = f"{self.process} {what}; the same command continues from the newest checkpoint"
        return EXIT_LOST_PROCESS, f"{line} (exit code {EXIT_LOST_PROCESS})"


class Watch(threading.Thread):
    """Watches over all other processes, in rank 0; elsewhere over rank 0, and through it over the others."""

    def __init__(
        self,
        rank: int,
        processes: Sequence[Process],
        link: socket.socket | Connection,
        *,
        token: str,
        interval: float,
        timeout: float,
    ) -> None:
        """
        Args:
            rank: this process's.
            processes: all of the run, by rank.
            link: in rank 0 the socket that the others connect to; elsewhere the connection to it.
            token: what those who connect have to know.
            interval: seconds between two signs of life.
            timeout: seconds of silence after which a process counts as dead; may be changed.
        """
        super().__init__(name="heartbeat", daemon=True)
        self.timeout = timeout
        self._interval = interval
        self._is_hub = rank == 0
        self._token = token
        self._peers = {other.rank: Peer(other) for other in (processes[1:] if self._is_hub else processes[:1])}
        self._peer_at: dict[Connection, Peer] = {}
        # Where rank 0 is lost and cannot say it, one process of each machine does.
        neighbours = (other.rank for other in processes[1:] if other.host == processes[rank].host)
        self._speaks = self._is_hub or rank == next(neighbours)
        self._farewell: Message | None = None
        self._waker, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ, self._wake)
        if isinstance(link, Connection):
            self._meet(link, self._peers[0])
            self._attend_to(link)
            link.send({"rank": rank, "token": token})
        else:
            self._selector.register(link, selectors.EVENT_READ, partial(self._admit, link))

    def leave(self, exit_code: int, last_words: str) -> None:
        """Say that this process leaves, and with what; rank 0 then stays until the others have left in order too."""
        self._farewell = {"exit_code": exit_code, "last_words": last_words[:_LONGEST_WORDS]}
        with suppress(OSError):  # the thread may have seen the farewell already, and be gone
            self._waker.send(b"\0")
        self.join()

    def run(self) -> None:
        """Beat and listen until this process leaves, or has to end because of another one."""
        since = time.monotonic()
        while self._farewell is None:
            since = self._beat(since)
        self._say(self._farewell)
        give_up = time.monotonic() + self.timeout
        while self._is_hub and self._farewell["exit_code"] in ORDERLY and time.monotonic() < give_up:
            if all(peer.exit_code is not None for peer in self._peers.values()):
                break
            since = self._beat(since)
        for connection in self._peer_at:
            connection.receive()  # closing it with something unread in it may cost the other end our last words
        for key in self._selector.get_map().values():
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _beat(self, since: float) -> float:
        """Say that we live and hear what is said until the next time; returns when it was heard."""
        self._say({})
        self._listen(self._interval)
        now = time.monotonic()
        for peer in self._peers.values():
            peer.silence += min(now - since, 2 * self._interval)
            if fault := peer.fault(self.timeout):
                self._end(*fault)
        return now

    def _say(self, message: Message) -> None:
        for connection in self._peer_at:
            connection.send(message)

    def _listen(self, seconds: float) -> None:
        """Hear what is said for so long, or until something more than a beat is."""
        until = time.monotonic() + seconds
        while not any(key.data() for key, _ in self._selector.select(max(until - time.monotonic(), 0.0))):
            if time.monotonic() >= until:
                return

    def _attend_to(self, connection: Connection) -> None:
        self._selector.register(connection.link, selectors.EVENT_READ, partial(self._hear, connection))

    # What follows is called when something has become readable, and returns whether it was more than a beat.

    def _wake(self) -> bool:
        self._woken.recv(1)
        return True

    def _admit(self, door: socket.socket) -> bool:
        self._attend_to(Connection(door.accept()[0]))
        return False

    def _hear(self, connection: Connection) -> bool:
        for message in connection.receive():
            if message.get("token") == self._token:
                self._meet(connection, self._peers[message["rank"]])
            if connection in self._peer_at:
                self._take(self._peer_at[connection], message)
        if not connection.is_open:
            self._selector.unregister(connection.link)
            return True
        return connection in self._peer_at and self._peer_at[connection].exit_code is not None

    def _meet(self, connection: Connection, peer: Peer) -> None:
        peer.connection, self._peer_at[connection] = connection, peer

    def _take(self, peer: Peer, message: Message) -> None:
        if "verdict" in message:
            _exit(message["verdict"])
        peer.silence = 0.0
        peer.exit_code = message.get("exit_code", peer.exit_code)
        peer.last_words = message.get("last_words", peer.last_words)

    def _end(self, exit_code: int, line: str) -> None:
        """End this process and, from rank 0, all others."""
        if self._speaks:
            print(line, file=sys.stderr, flush=True)
        if self._is_hub:
            self._say({"verdict": exit_code})
            until = time.monotonic() + _LINGER_SECONDS
            while any(connection.is_open for connection in self._peer_at) and time.monotonic() < until:
                self._listen(until - time.monotonic())
        _exit(exit_code)


def _exit(exit_code: int) -> None:
    """End the process at once: its main thread may be waiting for ever."""
    sys.stderr.flush()
    os._exit(exit_code)
