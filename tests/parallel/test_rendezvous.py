"""A rendezvous that fails is one line that names the variables to set."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import timedelta

import pytest
import torch.distributed as dist

from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import Launch
from pause_megatron.parallel.ports import free_port
from pause_megatron.parallel.rendezvous import form_default_group

TWO_RANKS = Launch(
    launcher="env", rank=0, world_size=2, local_rank=0, local_world_size=2, master_addr="127.0.0.1", master_port=1
)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_missing_rank_is_an_error_after_the_timeout(rank: int) -> None:
    launch = replace(TWO_RANKS, rank=rank, master_port=free_port())
    with pytest.raises(UserError) as raised:
        form_default_group(launch, backend="gloo", timeout=SECOND)
    line = str(raised.value)
    assert line.startswith(
        f"MASTER_ADDR 127.0.0.1, MASTER_PORT {launch.master_port}: rank {rank} does not find the other"
    )
    assert "\n" not in line
    assert len(line) < 500
    assert not dist.is_initialized()


def test_port_of_another_program_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        launch = replace(TWO_RANKS, master_port=other.getsockname()[1])
        with pytest.raises(
            UserError, match=rf"MASTER_PORT {launch.master_port}: is not free \(Address already in use\)"
        ):
            form_default_group(launch, backend="gloo", timeout=SECOND)
