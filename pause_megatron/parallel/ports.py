"""TCP ports for the rendezvous of a run's processes."""

import errno
import random
import socket

_JOB_PORTS = range(10000, 20000)
_RANDOM_PORTS = range(20000, 30000)
"""Both ranges lie above the registered service ports and below the ephemeral ports that the system hands out."""


def free_port() -> int:
    """Return a random port of this machine that nothing listens on.

    The port is not ephemeral. Otherwise another socket (gloo opens many) could get it before its owner listens on it.

    Raises ``OSError`` if a thousand random ports are all taken.
    """
    draw = random.SystemRandom()  # a seeded generator would give forks of one process the same ports
    for _ in range(1000):
        port = draw.choice(_RANDOM_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no free port from {_RANDOM_PORTS[0]} to {_RANDOM_PORTS[-1]}")


def port_of(number: int) -> int:
    """Return the port of job ``number``. All its processes compute the same one; nearby numbers get different ports."""
    return _JOB_PORTS[number % len(_JOB_PORTS)]
