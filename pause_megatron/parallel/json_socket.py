"""Non-blocking TCP connections that carry one JSON object per line, independent of the process groups."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 16
"""A peer that sends a longer line is not one of our processes."""
_MAX_UNREAD_BYTES = 1 << 22
"""Nor is one that sends so much at once."""
_CONNECT_SECONDS = 30.0


class JsonSocket:
    """One end of a connection. No method blocks: bytes that cannot be sent now are sent with the next message."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self.link = link
        self.is_open = True
        """False once the other end was seen closed. The kernel closes it when its process ends, however it ends."""
        self._unsent, self._unread = b"", b""

    @classmethod
    def connect(cls, host: str, port: int) -> JsonSocket:
        """Connect to a listening socket. Raises ``OSError`` if nothing listens there."""
        return cls(socket.create_connection((host, port), timeout=_CONNECT_SECONDS))

    def send(self, message: Message) -> None:
        """Send ``message``, or drop it if the other end is closed.

        A failed send does not clear :attr:`is_open`: the other end may have sent its exit code before it closed, and
        :meth:`receive` must read that first.
        """
        self._unsent += json.dumps(message).encode() + b"\n"
        with suppress(OSError):
            self._unsent = self._unsent[self.link.send(self._unsent) :]

    def receive(self) -> list[Message]:
        """Return the messages that arrived since the last call."""
        try:
            while len(self._unread) <= _MAX_UNREAD_BYTES and (data := self.link.recv(_READ_BYTES)):
                self._unread += data
            self.is_open = False
        except BlockingIOError:
            pass
        except OSError:
            self.is_open = False
        *lines, self._unread = self._unread.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            messages = [None]
        if len(self._unread) > _MAX_LINE_BYTES or not all(isinstance(message, dict) for message in messages):
            self.close()
            return []
        return messages

    def close(self) -> None:
        """Close this end."""
        self.is_open = False
        self.link.close()


def listen(*, locally: bool) -> socket.socket:
    """Listen on a port that the system chooses, for this machine only or for all."""
    if locally:
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
