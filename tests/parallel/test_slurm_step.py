"""A Slurm task reads its rank and the rendezvous of its step from the environment."""

from __future__ import annotations

import pytest

from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.parallel.slurm_step import address_of, describe_job, first_node, tasks_per_node

STEP = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
    "SLURM_STEP_NODELIST": "127.0.0.1,elsewhere",
}


def test_local_world_size_counts_tasks_of_this_node() -> None:
    launch = detect_launch(STEP)
    assert (launch.launcher, launch.rank, launch.world_size) == ("slurm", 3, 4)
    assert (launch.local_rank, launch.local_world_size, launch.single_node) == (0, 1, False)
    assert launch.master_addr == "127.0.0.1"


def test_ports_of_jobs_and_steps_differ() -> None:
    steps = [(job, step) for job in range(1000, 1100) for step in range(10)]
    ports = {
        detect_launch({**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).master_port for job, step in steps
    }
    assert len(ports) == len(steps)
    assert min(ports) >= 10000
    assert max(ports) < 32768  # first ephemeral port of Linux


def test_master_addr_and_port_in_the_environment_win() -> None:
    launch = detect_launch({**STEP, "MASTER_ADDR": "here", "MASTER_PORT": "77"})
    assert (launch.master_addr, launch.master_port) == ("here", 77)


def test_mpirun_inside_a_step_is_not_taken_for_srun() -> None:
    openmpi = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "5"), ("SIZE", "8"))}
    openmpi |= {"OMPI_COMM_WORLD_LOCAL_RANK": "5", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}
    assert detect_launch({**STEP, **openmpi}).rank == 5


def test_batch_script_is_not_taken_for_a_task() -> None:
    assert detect_launch({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}).launcher == "none"


@pytest.mark.parametrize(
    ("written", "tasks"), [("2", [2]), ("2(x3)", [2, 2, 2]), ("4,2(x2),1", [4, 2, 2, 1]), ("3,1", [3, 1])]
)
def test_tasks_per_node_are_expanded(written: str, tasks: list[int]) -> None:
    assert tasks_per_node(written) == tasks


LISTS = {
    "n1": "n1",
    "n[1-2]": "n1",
    "login,n[1-2]": "login",
    "gpu[07-09,12],login1": "gpu07",
    "rack[2-3]n[01-16]": "rack2n01",
}


@pytest.mark.parametrize(("written", "first"), LISTS.items())
def test_first_node_of_a_list_is_found(written: str, first: str) -> None:
    assert first_node(written) == first


def test_node_that_cannot_be_resolved_is_refused() -> None:
    with pytest.raises(UserError, match=r"MASTER_ADDR: the node 'no-such-host\.invalid' of task 0 cannot be resolved"):
        address_of("no-such-host.invalid")


def test_job_description_counts_restarts() -> None:
    assert describe_job({}) == ""
    assert describe_job({"SLURM_JOB_ID": "7"}) == "Slurm job 7"
    assert describe_job({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}) == "Slurm job 7, restart 2"
