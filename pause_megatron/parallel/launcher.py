"""Recognises the launcher that started this process and says who we are among how many.

torchrun, Slurm's ``srun`` and Open MPI's ``mpirun`` each describe a process in environment variables of their own;
PyTorch's rendezvous reads ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``. This module
translates the former into the latter. Without a launcher the process is alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from pause_megatron.errors import UserError

DEFAULT_MASTER_PORT = 29500
"""Rendezvous port where the launcher names none."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process among those of a run."""

    launcher: str
    """Which launcher was recognised: torchrun, slurm, openmpi, env (whoever set RANK and WORLD_SIZE), or none."""
    rank: int
    """Index of this process among all."""
    world_size: int
    """Processes of the run."""
    local_rank: int
    """Index of this process on its node: its GPU."""
    local_world_size: int
    """Processes on this node."""
    master_addr: str
    """Host that runs the rendezvous."""
    master_port: int
    """Its port."""

    @property
    def single_node(self) -> bool:
        """Whether all processes share this machine."""
        return self.local_world_size == self.world_size


def detect_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Find out how this process was launched from ``environment``.

    Raises :class:`UserError` when a launcher's variables contradict each other.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "env"
        return _launch(launcher, environment, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "0")) > 0:
        prefix = "OMPI_COMM_WORLD_"
        names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
        return _launch("openmpi", environment, *(prefix + name for name in names))
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        return _launch("slurm", environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "")
    return Launch(
        launcher="none",
        rank=0,
        world_size=1,
        local_rank=0,
        local_world_size=1,
        master_addr="127.0.0.1",
        master_port=free_port(),
    )


def export_launch(launch: Launch) -> None:
    """Set the variables PyTorch's ``env://`` rendezvous and DeepSpeed read."""
    os.environ.update(
        RANK=str(launch.rank),
        WORLD_SIZE=str(launch.world_size),
        LOCAL_RANK=str(launch.local_rank),
        LOCAL_WORLD_SIZE=str(launch.local_world_size),
        MASTER_ADDR=launch.master_addr,
        MASTER_PORT=str(launch.master_port),
    )


def _launch(
    launcher: str, environment: Mapping[str, str], rank: str, world_size: str, local_rank: str, local_world_size: str
) -> Launch:
    world = int(environment[world_size])
    local_world = environment.get(local_world_size) or environment.get("SLURM_STEP_TASKS_PER_NODE", str(world))
    found = Launch(
        launcher=launcher,
        rank=int(environment[rank]),
        world_size=world,
        local_rank=int(environment.get(local_rank, "0")),
        local_world_size=int(local_world.split("(")[0].split(",")[0]),
        master_addr=environment.get("MASTER_ADDR") or _first_node(environment),
        master_port=int(environment.get("MASTER_PORT", DEFAULT_MASTER_PORT)),
    )
    if not 0 <= found.rank < found.world_size:
        raise UserError(f"{launcher}: {rank}={found.rank} does not fit {world_size}={found.world_size}")
    return found


def _first_node(environment: Mapping[str, str]) -> str:
    """The first host of a Slurm job, else this machine."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not nodes or environment.get("SLURM_JOB_NUM_NODES") == "1":
        return "127.0.0.1"
    listing = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False)
    if listing.returncode:
        raise UserError(f"cannot expand the Slurm node list '{nodes}': {listing.stderr.strip()}; set MASTER_ADDR")
    return listing.stdout.split()[0]


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
