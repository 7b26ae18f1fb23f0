"""Two nodes on this machine: Linux namespaces with host names, /etc/hosts files and network interfaces of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")
"""Of node1 and node2, on the interface :data:`INTERFACE` of each."""
INTERFACE = "net7"
Node = list[str]
"""Beginning of a command that runs on the node."""


@contextmanager
def two_nodes(folder: Path) -> Iterator[list[Node]]:
    """Nodes that reach each other, and whose own names resolve to 127.0.1.1, as Debian's installer sets them up."""
    with ExitStack() as stack:
        started = [stack.enter_context(_namespaces(folder, number)) for number in (1, 2)]
        first, second = (process.pid for process in started)
        _run("ip", "link", "add", INTERFACE, "netns", first, "type", "veth", "peer", INTERFACE, "netns", second)
        nodes = [["nsenter", f"--target={pid}", "--net", "--uts", "--mount"] for pid in (first, second)]
        for node, address in zip(nodes, ADDRESSES, strict=True):
            _run(*node, "ip", "address", "add", f"{address}/24", "dev", INTERFACE)
            _run(*node, "ip", "link", "set", INTERFACE, "up")
        yield nodes


@contextmanager
def _namespaces(folder: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the namespaces of node ``number`` open."""
    if os.geteuid() != 0:
        pytest.skip("not root here; ranks on two nodes were not checked")
    other = 3 - number
    hosts = folder / f"hosts{number}"
    hosts.write_text(
        f"127.0.0.1 localhost\n127.0.1.1 node{number}\n{ADDRESSES[other - 1]} node{other}\n", encoding="utf-8"
    )
    setup = f"hostname node{number} && mount --bind {hosts} /etc/hosts && ip link set lo up && echo ready && cat"
    process = subprocess.Popen(
        ["unshare", "--net", "--uts", "--mount", "sh", "-c", setup],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            pytest.skip("no Linux namespaces here; ranks on two nodes were not checked")
        yield process
    finally:
        process.kill()
        process.wait()


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True)
