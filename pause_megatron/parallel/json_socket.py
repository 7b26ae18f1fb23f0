"""Small messages between the processes of a run, beside the process groups: JSON lines over TCP, never waited for."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

_AT_ONCE = 1 << 16
_LONGEST = 1 << 16
"""Bytes without an end of line after which whoever sends them is none of ours."""
_CONNECT_SECONDS = 30.0


class Connection:
    """One end of a connection. Nothing here blocks: what cannot be sent now is sent with the next message."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self.link = link
        self.is_open = True
        """Whether the other end was there when last looked; a process that ends, however it ends, closes its own."""
        self._unsent, self._unread = b"", b""

    @classmethod
    def to(cls, host: str, port: int) -> Connection:
        """Connect to whoever listens there. Raises ``OSError`` when nobody does."""
        return cls(socket.create_connection((host, port), timeout=_CONNECT_SECONDS))

    def send(self, message: Message) -> None:
        """Send ``message``; to an end that is not there any more, nothing.

        That end counts as open until all it has said is received, which may be why it is not there any more.
        """
        self._unsent += json.dumps(message).encode() + b"\n"
        with suppress(OSError):
            self._unsent = self._unsent[self.link.send(self._unsent) :]

    def receive(self) -> list[Message]:
        """What has arrived since the last call."""
        try:
            while data := self.link.recv(_AT_ONCE):
                self._unread += data
            self.is_open = False
        except BlockingIOError:
            pass
        except OSError:
            self.is_open = False
        *lines, self._unread = self._unread.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            messages = [None]
        if len(self._unread) > _LONGEST or not all(isinstance(message, dict) for message in messages):
            self.close()
            return []
        return messages

    def close(self) -> None:
        """Close this end."""
        self.is_open = False
        self.link.close()


def listen(*, locally: bool) -> socket.socket:
    """A socket that takes connections at a port the system chose, from this machine or from anywhere."""
    if locally:
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
