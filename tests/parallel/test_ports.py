"""Free ports are unused, are not ephemeral, and differ between forked processes."""

import random
import socket
from pathlib import Path

import pytest

from pause_megatron.parallel import ports

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_free_port_is_not_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken, socket.create_server(("", 0)) as also_taken:
        first, last = sorted(server.getsockname()[1] for server in (taken, also_taken))
        monkeypatch.setattr(ports, "_RANDOM_PORTS", range(first, first + 1))
        with pytest.raises(OSError, match=f"no free port from {first} to {first}"):
            ports.free_port()
        monkeypatch.setattr(ports, "_RANDOM_PORTS", range(first, last + 50))
        assert {ports.free_port() for _ in range(100)}.isdisjoint({first, last})


def test_free_port_can_be_bound_and_is_not_ephemeral() -> None:
    if not EPHEMERAL.exists():
        pytest.skip(f"no {EPHEMERAL} here; the range of ephemeral ports is unknown")
    first, last = map(int, EPHEMERAL.read_text().split())
    if first < 30000:
        pytest.skip(f"{EPHEMERAL} begins at {first}: all ports may be ephemeral")
    for _ in range(20):
        port = ports.free_port()
        assert not first <= port <= last
        socket.create_server(("", port)).close()


def test_processes_with_the_same_random_seed_draw_different_ports() -> None:
    drawn = []
    for _ in range(2):
        random.seed(0)
        drawn.append([ports.free_port() for _ in range(5)])
    assert drawn[0] != drawn[1]
