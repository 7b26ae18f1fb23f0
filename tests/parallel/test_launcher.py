"""Each launcher is recognised by its own environment variables."""

from __future__ import annotations

import pytest

from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import detect_launch


def test_process_without_a_launcher_is_a_run_of_one_rank() -> None:
    launch = detect_launch({})
    assert (launch.launcher, launch.rank, launch.world_size, launch.single_node) == ("none", 0, 1, True)


def test_torchrun_is_recognised() -> None:
    launch = detect_launch(
        {
            "TORCHELASTIC_RUN_ID": "none",
            "RANK": "5",
            "WORLD_SIZE": "8",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "node1",
            "MASTER_PORT": "1234",
        }
    )
    assert (launch.launcher, launch.rank, launch.world_size, launch.local_rank) == ("torchrun", 5, 8, 1)
    assert (launch.master_addr, launch.master_port, launch.single_node) == ("node1", 1234, False)


def test_rank_and_world_size_without_a_launcher_are_enough() -> None:
    launch = detect_launch({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    assert (launch.launcher, launch.rank, launch.world_size, launch.single_node) == ("env", 0, 2, True)


def test_openmpi_is_recognised() -> None:
    prefix = "OMPI_COMM_WORLD_"
    launch = detect_launch(
        {prefix + "RANK": "1", prefix + "SIZE": "2", prefix + "LOCAL_RANK": "1", prefix + "LOCAL_SIZE": "2"}
    )
    assert (launch.launcher, launch.rank, launch.world_size, launch.single_node) == ("openmpi", 1, 2, True)


def test_deepspeeds_launcher_is_recognised() -> None:
    environment = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_SIZE": "2",
        "CROSS_RANK": "1",
        "CROSS_SIZE": "2",
    }
    launch = detect_launch({**environment, "MASTER_ADDR": "node1", "MASTER_PORT": "29500"})
    assert (launch.launcher, launch.rank, launch.local_rank, launch.local_world_size) == ("deepspeed", 3, 1, 2)
    assert (launch.master_addr, launch.single_node) == ("node1", False)


def test_rank_beyond_the_world_size_is_refused() -> None:
    with pytest.raises(UserError, match="env: rank 2 does not exist in a world of 2 processes; start ranks 0 to 1"):
        detect_launch({"RANK": "2", "WORLD_SIZE": "2"})
