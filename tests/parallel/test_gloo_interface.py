"""gloo's connections take an interface that all ranks can reach, whatever the host names resolve to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.errors import UserError
from pause_megatron.parallel.gloo_interface import VARIABLE, choose_gloo_interface
from pause_megatron.parallel.launcher import Launch
from tests.parallel.two_nodes import INTERFACE, two_nodes


def launch(*, nodes: int, master_addr: str = "127.0.0.1") -> Launch:
    return Launch(
        launcher="env",
        rank=0,
        world_size=2,
        local_rank=0,
        local_world_size=2 // nodes,
        master_addr=master_addr,
        master_port=29500,
    )


def chosen(environment: dict[str, str], *, nodes: int) -> str | None:
    """The interface, or the refusal on a machine without a network."""
    environment = dict(environment)
    try:
        choose_gloo_interface(launch(nodes=nodes), environment)
    except UserError as refusal:
        return str(refusal)
    return environment.get(VARIABLE)


def test_one_node_uses_the_loopback_interface() -> None:
    assert chosen({}, nodes=1) == ("lo0" if sys.platform == "darwin" else "lo")
    assert chosen({"NCCL_SOCKET_IFNAME": "ib0"}, nodes=1) == chosen({}, nodes=1)


def test_a_given_interface_is_kept() -> None:
    assert chosen({VARIABLE: "ib0"}, nodes=1) == chosen({VARIABLE: "ib0"}, nodes=2) == "ib0"


@pytest.mark.skipif(not Path("/sys/class/net/lo").exists(), reason="no interface lo here; NCCL's was not checked")
@pytest.mark.parametrize("setting", ["lo", "=lo", "absent,l", "lo:8000"])
def test_several_nodes_use_the_interface_of_nccl(setting: str) -> None:
    assert chosen({"NCCL_SOCKET_IFNAME": setting}, nodes=2) == "lo"


@pytest.mark.parametrize("setting", ["^docker", "=l", "absent"])
def test_a_setting_of_nccl_that_names_no_interface_here_is_ignored(setting: str) -> None:
    found = chosen({"NCCL_SOCKET_IFNAME": setting}, nodes=2)
    assert found == chosen({}, nodes=2)
    assert found != "lo"


RANK = """
import os, socket, sys
from datetime import timedelta
import torch, torch.distributed as dist
from pause_megatron.errors import UserError
from pause_megatron.parallel.gloo_interface import VARIABLE, choose_gloo_interface
from pause_megatron.parallel.launcher import detect_launch

launch = detect_launch()
try:
    choose_gloo_interface(launch)
except UserError as refusal:
    sys.exit(f"refused: {refusal}")
dist.init_process_group("gloo", rank=launch.rank, world_size=2, timeout=timedelta(seconds=20))
total = torch.tensor([launch.rank + 1])
dist.all_reduce(total)
print(socket.gethostbyname(socket.gethostname()), os.environ[VARIABLE], int(total))
"""


def start(node: list[str], rank: int, program: str = RANK) -> subprocess.Popen[str]:
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return subprocess.Popen(
        [*node, sys.executable, "-c", program],
        env={**os.environ, **variables, "MASTER_ADDR": "node1", "MASTER_PORT": "29517"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_nodes_whose_names_resolve_to_loopback_form_a_group(tmp_path: Path) -> None:
    with two_nodes(tmp_path) as nodes:
        ranks = [start(node, rank) for rank, node in enumerate(nodes)]
        for rank in ranks:
            printed, errors = rank.communicate(timeout=120)
            assert printed.split() == ["127.0.1.1", INTERFACE, "3"], errors


def test_a_node_without_a_route_to_rank_0_is_told_what_to_set(tmp_path: Path) -> None:
    with two_nodes(tmp_path) as nodes:
        commands = ["link add second type veth peer other", "address add 10.78.0.2/24 dev second", "link set second up"]
        for command in [*commands, "link set other up", f"route del 10.77.0.0/24 dev {INTERFACE}"]:
            subprocess.run([*nodes[1], "ip", *command.split()], check=True)
        _, errors = start(nodes[1], 1).communicate(timeout=120)
        assert f"refused: {VARIABLE}: the name node2 resolves to a loopback address or not at all, and no" in errors
        assert f"set it to the interface that the other nodes reach (this node has {INTERFACE}, " in errors
