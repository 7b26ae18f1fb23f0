"""The last message of a process is received, even if sending to it failed before."""

from __future__ import annotations

import socket
import time

from pause_megatron.parallel.json_socket import JsonSocket


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
