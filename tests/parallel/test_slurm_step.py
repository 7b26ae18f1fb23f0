"""A Slurm task tells from its environment who it is, and where its step can meet."""

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
    "SLURM_STEP_NODELIST": "localhost,elsewhere",
}


def test_tasks_are_those_of_this_node() -> None:
    launch = detect_launch(STEP)
    assert (launch.launcher, launch.rank, launch.world_size) == ("slurm", 3, 4)
    assert (launch.local_rank, launch.local_world_size, launch.single_node) == (0, 1, False)
    assert launch.master_addr == "localhost"


def test_jobs_and_steps_have_ports_of_their_own() -> None:
    steps = [(job, step) for job in range(1000, 1100) for step in range(10)]
    ports = {
        detect_launch({**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).master_port for job, step in steps
    }
    assert len(ports) == len(steps)
    assert min(ports) >= 10000
    assert max(ports) < 32768  # from where on Linux gives ports to whoever asks for any


def test_a_given_meeting_place_wins() -> None:
    launch = detect_launch({**STEP, "MASTER_ADDR": "here", "MASTER_PORT": "77"})
    assert (launch.master_addr, launch.master_port) == ("here", 77)


def test_what_a_step_starts_by_mpirun_is_no_task_of_it() -> None:
    openmpi = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "5"), ("SIZE", "8"))}
    openmpi |= {"OMPI_COMM_WORLD_LOCAL_RANK": "5", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}
    assert detect_launch({**STEP, **openmpi}).rank == 5


def test_a_batch_script_is_no_task() -> None:
    assert detect_launch({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}).launcher == "none"


@pytest.mark.parametrize(
    ("written", "tasks"), [("2", [2]), ("2(x3)", [2, 2, 2]), ("4,2(x2),1", [4, 2, 2, 1]), ("3,1", [3, 1])]
)
def test_tasks_per_node(written: str, tasks: list[int]) -> None:
    assert tasks_per_node(written) == tasks


LISTS = {
    "n1": "n1",
    "n[1-2]": "n1",
    "login,n[1-2]": "login",
    "gpu[07-09,12],login1": "gpu07",
    "rack[2-3]n[01-16]": "rack2n01",
}


@pytest.mark.parametrize(("written", "first"), LISTS.items())
def test_first_node(written: str, first: str) -> None:
    assert first_node(written) == first


def test_a_node_without_an_address_is_refused() -> None:
    with pytest.raises(UserError, match=r"'no-such-host\.invalid' of task 0 is no host name here; set MASTER_ADDR"):
        address_of("no-such-host.invalid")


def test_a_job_is_described_with_its_restarts() -> None:
    assert describe_job({}) == ""
    assert describe_job({"SLURM_JOB_ID": "7"}) == "Slurm job 7"
    assert describe_job({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}) == "Slurm job 7, restart 2"
