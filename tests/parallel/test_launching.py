"""Real launchers start two processes; each process finds its rank and the same rendezvous."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import TORCHRUN_FLAGS
from tests.mpirun import ORIGINS, mpi_environment, mpirun_command, run_mpi

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

DETECT = (
    "import dataclasses, json; from pause_megatron.parallel.launcher import detect_launch; launch = detect_launch(); "
)
PROGRAM = DETECT + "print('\\n' + json.dumps(dataclasses.asdict(launch)), flush=True)"
"""Prints the detected launch as one line of JSON."""


def launches(output: str) -> list[dict[str, Any]]:
    """Parse the printed launches, in rank order."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return sorted(found, key=lambda launch: launch["rank"])


def assert_two_meet(found: list[dict[str, Any]], launcher: str) -> None:
    assert [launch["launcher"] for launch in found] == [launcher] * 2
    assert [launch["rank"] for launch in found] == [launch["local_rank"] for launch in found] == [0, 1]
    assert {(launch["world_size"], launch["local_world_size"]) for launch in found} == {(2, 2)}
    assert len({(launch["master_addr"], launch["master_port"]) for launch in found}) == 1


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "detect.py").write_text(PROGRAM)
    return tmp_path / "detect.py"


def run(*command: object) -> str:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchrun_processes_meet(program: Path) -> None:
    assert_two_meet(launches(run(BIN / "torchrun", *TORCHRUN_FLAGS, "--nproc-per-node=2", program)), "torchrun")


def test_deepspeed_processes_meet(program: Path) -> None:
    port = ("--master_port", 29417)
    output = run(BIN / "deepspeed", "--num_gpus", 2, "--no_local_rank", *port, program)
    assert_two_meet(launches(output), "deepspeed")


@pytest.mark.parametrize("origin", ORIGINS)
def test_mpirun_processes_meet_and_jobs_get_different_ports(origin: str, program: Path) -> None:
    jobs = [launches(run_mpi(origin, sys.executable, program).stdout) for _ in range(2)]
    for job in jobs:
        assert_two_meet(job, "openmpi")
    assert jobs[0][0]["master_port"] != jobs[1][0]["master_port"]  # both jobs could run on one machine at the same time


@pytest.mark.parametrize("origin", ORIGINS)
def test_mpi_without_known_variables_is_asked_through_mpi4py(origin: str, tmp_path: Path) -> None:
    hidden = "import os; [os.environ.pop(name) for name in list(os.environ) if name.startswith('OMPI_COMM_')]; "
    (tmp_path / "detect.py").write_text(hidden + PROGRAM + "; raise SystemExit(5)")
    done = run_mpi(origin, sys.executable, tmp_path / "detect.py")
    assert_two_meet(launches(done.stdout), "mpi")
    assert done.returncode == 5, done.stderr  # finalizing MPI does not change the exit code


def test_mpi_library_of_another_launcher_is_refused(program: Path) -> None:
    environment = {**mpi_environment("PyPI"), "PMI_SIZE": "4", "PMI_RANK": "1"}  # as MPICH's mpiexec leaves it
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    if "finds no MPI library" in done.stderr:
        pytest.skip("no MPI library here; a library of another launcher was not checked")
    assert "4 processes were started, but MPI joins 1 of them" in done.stderr
    assert not launches(done.stdout)


def test_mpirun_refuses_root_unless_allowed(program: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root here; that mpirun refuses root was not checked")
    environment = {name: value for name, value in mpi_environment("PyPI").items() if "RUN_AS_ROOT" not in name}
    done = subprocess.run(
        mpirun_command("PyPI", sys.executable, program), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "root" in done.stderr
    assert not launches(done.stdout)
