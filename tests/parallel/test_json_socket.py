"""What a process said last is heard, however it ended and whatever was being said to it."""

from __future__ import annotations

import socket
import time

from pause_megatron.parallel.json_socket import Connection


def test_last_words_are_heard_after_something_could_not_be_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        one = Connection.to("127.0.0.1", door.getsockname()[1])
        other = Connection(door.accept()[0])
    one.send({})
    other.send({"exit_code": 0})
    other.link.close()  # with something unread in it: the connection is reset
    for _ in range(3):
        one.send({})
        time.sleep(0.05)
    assert one.is_open  # until then it would count as killed
    assert one.receive() == [{"exit_code": 0}]
    assert not one.is_open
    one.close()
