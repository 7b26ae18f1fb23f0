"""TCP ports for the processes of a run to meet at."""

from __future__ import annotations

import errno
import random
import socket

_OF_JOBS = range(10000, 20000)
_DRAWN = range(20000, 30000)
"""Below both are ports with a meaning, above those that systems give to whoever asks for any."""


def free_port() -> int:
    """A port of this machine that nothing listens on.

    It is drawn, and from ports that the system gives to nobody who asks for any: gloo, for one, asks for many, and
    might have taken it before whoever is to listen on it gets that far.

    Raises ``OSError`` when none of a thousand is free.
    """
    draw = random.SystemRandom()  # forks of one process must not draw alike
    for _ in range(1000):
        port = draw.choice(_DRAWN)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no free port from {_DRAWN[0]} to {_DRAWN[-1]}")


def port_of(number: int) -> int:
    """The port of a job that all its processes know by ``number``; jobs of close numbers have ports of their own."""
    return _OF_JOBS[number % len(_OF_JOBS)]
