"""The last message of a process is received, even if sending to it failed before; other programs are cut off."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pause_megatron.parallel.json_socket import JsonSocket, listen
from pause_megatron.parallel.peer_monitor import PeerMonitor, ProcessAddress


def test_last_message_is_received_after_a_failed_send() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = JsonSocket.connect("127.0.0.1", server.getsockname()[1])
        other = JsonSocket(server.accept()[0])
    one.send({})
    other.send({"exit_code": 0})
    other.link.close()  # with an unread message: this resets the connection
    for _ in range(3):
        one.send({})
        time.sleep(0.05)
    assert one.is_open  # otherwise the process would count as killed
    assert one.receive() == [{"exit_code": 0}]
    assert not one.is_open
    one.close()


STRANGE = {
    "nested": b"[" * 60_000 + b"\n",
    "endless": b"x" * 200_000,
    "not JSON": b"GET / HTTP/1.1\r\n\r\n",
    "not text": b"\xff\xfe\x00\n",
    "wrong token": b'{"rank": 1, "token": "guess"}\n',
    "no object": b"[1]\n",
    "wrong types": b'{"rank": {}, "token": []}\n',
}


@pytest.fixture
def monitors() -> Iterator[tuple[PeerMonitor, PeerMonitor, int]]:
    """The monitors of two processes that are connected, and the port of rank 0's."""
    processes = [ProcessAddress(0, "here", 1), ProcessAddress(1, "here", 2)]
    server = listen(locally=True)
    port = server.getsockname()[1]
    settings = {"token": "secret", "interval": 0.1, "timeout": 100.0}
    one = PeerMonitor(0, processes, server, **settings)
    other = PeerMonitor(1, processes, JsonSocket.connect("127.0.0.1", port), **settings)
    for monitor in (one, other):
        monitor.start()
    yield one, other, port
    for monitor in (other, one):
        monitor.leave(0, "")


@pytest.mark.parametrize("kind", STRANGE)
def test_strangers_are_cut_off_and_the_monitor_lives(monitors: tuple[PeerMonitor, PeerMonitor, int], kind: str) -> None:
    one, other, port = monitors
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger, suppress(ConnectionError):
        stranger.sendall(STRANGE[kind])
        assert stranger.recv(1) == b"", "rank 0 closes the connection"
    assert one.is_alive()
    assert other.is_alive()


def test_silent_strangers_do_not_take_all_file_descriptors(monitors: tuple[PeerMonitor, PeerMonitor, int]) -> None:
    one, other, port = monitors
    strangers = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(40)]
    for first in strangers[:20]:
        with suppress(ConnectionError):
            assert first.recv(1) == b""
    for stranger in strangers:
        stranger.close()
    assert one.is_alive()
    assert other.is_alive()
