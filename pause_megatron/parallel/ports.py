"""TCP ports for the processes of a run to meet at."""

from __future__ import annotations

import socket

_FIRST, _COUNT = 10000, 20000
"""Below are ports with a meaning, above those that systems give to whoever asks for any."""


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def port_of(number: int) -> int:
    """The port of a job that all its processes know by ``number``; jobs of close numbers have ports of their own."""
    return _FIRST + number % _COUNT
