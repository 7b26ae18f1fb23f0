"""Each launcher is recognised by its own environment variables."""

from __future__ import annotations

import os

import pytest

from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import detect_launch, export_launch, withdraw_launch
from tests.conftest import LAUNCH_VARIABLES


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
    with pytest.raises(UserError, match="RANK 2: does not exist, since WORLD_SIZE is 2; give 0 to 1"):
        detect_launch({"RANK": "2", "WORLD_SIZE": "2"})


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
LAUNCHERS: dict[str, dict[str, str]] = {
    "torchrun": {**TORCHRUN, "MASTER_ADDR": "localhost", "MASTER_PORT": "1234"},
    "deepspeed": {
        **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_RANK": "1", "CROSS_SIZE": "2"},
        **{"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},
    },
    "slurm": {
        **{"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NODEID": "1", "SLURM_LOCALID": "0"},
        **{"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_STEP_NODELIST": "127.0.0.1,other"},
        **{"MASTER_PORT": "1234", "SLURM_HET_SIZE": "1"},
    },
    "openmpi": {
        **{f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "1"), ("SIZE", "2"))},
        **{"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_PORT": "1234"},
    },
}
TEXTS = {"CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "SLURM_STEP_NODELIST", "TORCHELASTIC_RUN_ID"}
"""Variables of LAUNCHERS that are not numbers, or are not read."""
VARIABLES = [(launcher, name) for launcher, values in LAUNCHERS.items() for name in values]
DAMAGES = ("abc", "-1", "1.5", "0x1", "1_0", "\N{SUPERSCRIPT TWO}", "9" * 30, "9" * 5000, "tcp://10.0.0.1:443", "1 2")


def outcome(environment: dict[str, str]) -> str:
    """The detected launch or the error as text."""
    try:
        return repr(detect_launch(environment))
    except UserError as error:
        return f"error: {error}"


@pytest.mark.parametrize(("launcher", "name"), VARIABLES)
def test_malformed_variable_is_named_in_a_line(launcher: str, name: str) -> None:
    assert detect_launch(LAUNCHERS[launcher]).launcher == launcher
    for damage in DAMAGES if name not in TEXTS else ():
        line = outcome({**LAUNCHERS[launcher], name: damage})
        assert line.startswith(f"error: {name} '{damage}': is "), line
        assert "\n" not in line


@pytest.mark.parametrize(("launcher", "name"), VARIABLES)
def test_empty_variable_counts_as_not_set(launcher: str, name: str) -> None:
    without = {key: value for key, value in LAUNCHERS[launcher].items() if key != name}
    found = outcome(without)
    if name == "SLURM_STEP_NUM_TASKS":  # a batch script, which is no step
        assert detect_launch({**without, name: ""}).launcher == detect_launch(without).launcher == "none"
        return
    if name not in TEXTS:
        assert outcome({**without, name: ""}) == outcome({**without, name: " "}) == found
    # No process may run alone because a variable is missing.
    assert found.startswith(f"error: {name}: is not set") or " world_size=1," not in found


@pytest.mark.parametrize(
    ("launcher", "changed", "line"),
    [
        ("torchrun", {"RANK": "2"}, "RANK 2: does not exist, since WORLD_SIZE is 2"),
        ("torchrun", {"LOCAL_RANK": "2"}, "LOCAL_RANK 2: does not exist, since LOCAL_WORLD_SIZE is 2"),
        ("torchrun", {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE '3': is not a whole number from 1 to 2"),
        ("torchrun", {"WORLD_SIZE": "0"}, "WORLD_SIZE '0': is not a whole number from 1"),
        ("torchrun", {"MASTER_PORT": "0"}, "MASTER_PORT '0': is not a whole number from 1 to 65535"),
        ("torchrun", {"MASTER_PORT": "70000"}, "MASTER_PORT '70000': is not a whole number from 1 to 65535"),
        ("torchrun", {"MASTER_PORT": "tcp://10.0.0.1:443"}, "MASTER_PORT 'tcp://10.0.0.1:443': is the address of a Ku"),
        ("torchrun", {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": ""}, "MASTER_ADDR: is not set"),
        ("torchrun", {"LOCAL_WORLD_SIZE": "", "MASTER_ADDR": "no-such-host.invalid"}, "LOCAL_WORLD_SIZE: is not set"),
        ("torchrun", {"WORLD_SIZE": ""}, "WORLD_SIZE: is not set, but RANK is"),
        ("torchrun", {"RANK": ""}, "RANK: is not set, but WORLD_SIZE is"),
        ("slurm", {"SLURM_HET_SIZE": "2"}, "SLURM_HET_SIZE 2: heterogeneous Slurm jobs are not supported"),
        ("slurm", {"SLURM_PROCID": "4"}, "SLURM_PROCID 4: does not exist, since SLURM_STEP_NUM_TASKS is 4"),
        ("slurm", {"SLURM_NODEID": "2"}, "SLURM_NODEID 2: does not exist, since the length of SLURM_STEP_TASKS_PER_"),
        ("slurm", {"SLURM_STEP_TASKS_PER_NODE": "2(x"}, "SLURM_STEP_TASKS_PER_NODE '2(x': is not a list"),
        ("slurm", {"SLURM_STEP_TASKS_PER_NODE": "2,,1"}, "SLURM_STEP_TASKS_PER_NODE '2,,1': is not a list"),
        ("slurm", {"SLURM_STEP_TASKS_PER_NODE": "1(x99999999)"}, "SLURM_STEP_TASKS_PER_NODE '1(x99999999)': is not"),
        ("slurm", {"SLURM_STEP_NODELIST": "", "MASTER_ADDR": ""}, "MASTER_ADDR: the node '' of task 0 cannot be"),
        ("slurm", {"PMI_SIZE": "abc"}, "PMI_SIZE 'abc': is not a whole number"),
        ("openmpi", {"OMPI_COMM_WORLD_SIZE": ""}, "OMPI_COMM_WORLD_SIZE: is not set, but OMPI_COMM_WORLD_RANK is"),
        ("openmpi", {"OMPI_COMM_WORLD_RANK": "2"}, "OMPI_COMM_WORLD_RANK 2: does not exist"),
    ],
)
def test_contradiction_is_named_in_a_line(launcher: str, changed: dict[str, str], line: str) -> None:
    assert outcome({**LAUNCHERS[launcher], **changed}).startswith(f"error: {line}")


def test_process_alone_ignores_the_address_of_a_kubernetes_service() -> None:
    assert detect_launch({"MASTER_PORT": "tcp://10.0.0.1:443", "RANK": "", "WORLD_SIZE": ""}).launcher == "none"


def test_a_withdrawn_launch_leaves_variables_that_others_have_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")  # as a launcher's
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    launch = detect_launch({**os.environ, "RANK": "0", "WORLD_SIZE": "1"})
    export_launch(launch)
    assert (os.environ["RANK"], os.environ["MASTER_PORT"]) == ("0", str(launch.master_port))
    os.environ["WORLD_SIZE"] = "7"
    withdraw_launch()
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("2", "7")
    assert "MASTER_PORT" not in os.environ
    os.environ["RANK"] = "5"
    withdraw_launch()
    assert os.environ["RANK"] == "5", "a second call changes nothing"


def test_a_launch_that_was_never_withdrawn_does_not_come_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name in LAUNCH_VARIABLES:
            patch.setenv(name, "3")  # of a launcher whose variables are gone when the next command starts
        export_launch(detect_launch({}))
    before = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    for _ in range(2):
        export_launch(detect_launch({}))
    withdraw_launch()
    assert {name: os.environ.get(name) for name in LAUNCH_VARIABLES} == before
