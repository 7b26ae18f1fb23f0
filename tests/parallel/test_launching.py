"""Real launchers start two processes, and each process knows who it is, and where all can meet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mpirun import ORIGINS, mpi_environment, mpirun_command, run_mpi

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

SAY = "import dataclasses, json; from pause_megatron.parallel.launcher import detect_launch; launch = detect_launch(); "
PROGRAM = SAY + "print('\\n' + json.dumps(dataclasses.asdict(launch)), flush=True)"
"""Says who it is, on a line of its own."""


def said(output: str) -> list[dict[str, Any]]:
    """What each process found, by rank."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return sorted(found, key=lambda launch: launch["rank"])


def assert_two_meet(found: list[dict[str, Any]], launcher: str) -> None:
    assert [launch["launcher"] for launch in found] == [launcher] * 2
    assert [launch["rank"] for launch in found] == [launch["local_rank"] for launch in found] == [0, 1]
    assert {(launch["world_size"], launch["local_world_size"]) for launch in found} == {(2, 2)}
    assert len({(launch["master_addr"], launch["master_port"]) for launch in found}) == 1


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "say.py").write_text(PROGRAM)
    return tmp_path / "say.py"


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


def test_torchrun(program: Path) -> None:
    assert_two_meet(said(run(BIN / "torchrun", "--standalone", "--nproc-per-node=2", program)), "torchrun")


def test_deepspeed(program: Path) -> None:
    port = ("--master_port", 29417)
    output = run(BIN / "deepspeed", "--num_gpus", 2, "--no_local_rank", *port, program)
    assert_two_meet(said(output), "deepspeed")


@pytest.mark.parametrize("origin", ORIGINS)
def test_mpirun(origin: str, program: Path) -> None:
    jobs = [said(run_mpi(origin, sys.executable, program).stdout) for _ in range(2)]
    for job in jobs:
        assert_two_meet(job, "openmpi")
    assert jobs[0][0]["master_port"] != jobs[1][0]["master_port"]  # so that both could run on one machine


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_mpi_without_known_variables_is_asked_itself(origin: str, tmp_path: Path) -> None:
    hidden = "import os; [os.environ.pop(name) for name in list(os.environ) if name.startswith('OMPI_COMM_')]; "
    (tmp_path / "say.py").write_text(hidden + PROGRAM + "; raise SystemExit(5)")
    done = run_mpi(origin, sys.executable, tmp_path / "say.py")
    assert_two_meet(said(done.stdout), "mpi")
    assert done.returncode == 5, done.stderr  # a process that has left MPI keeps its exit code


def test_another_launchers_processes_are_not_each_taken_for_the_only_one(program: Path) -> None:
    environment = {**mpi_environment("PyPI"), "PMI_SIZE": "4", "PMI_RANK": "1"}  # as MPICH's mpiexec leaves it
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    if "finds no MPI library" in done.stderr:
        pytest.skip("no MPI library here; processes that it does not join were not checked")
    assert "4 processes were started, but MPI joins 1 of them" in done.stderr
    assert not said(done.stdout)


def test_root_is_refused_by_mpirun_unless_it_is_allowed(program: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root here; what mpirun says to root was not checked")
    environment = {name: value for name, value in mpi_environment("PyPI").items() if "RUN_AS_ROOT" not in name}
    done = subprocess.run(
        mpirun_command("PyPI", sys.executable, program), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "root" in done.stderr
    assert not said(done.stdout)
