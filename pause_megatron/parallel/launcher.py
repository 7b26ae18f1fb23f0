"""Recognises the launcher that started this process and says who we are among how many.

torchrun, DeepSpeed's ``deepspeed``, Slurm's ``srun`` and Open MPI's ``mpirun`` each describe a process in environment
variables of their own; any other MPI is asked through mpi4py. PyTorch's rendezvous reads ``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``. This module translates the former into the latter. Without a
launcher the process is alone.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from pause_megatron.errors import UserError
from pause_megatron.parallel import mpi_job, slurm_step
from pause_megatron.parallel.ports import free_port, port_of

DEFAULT_MASTER_PORT = 29500
"""Rendezvous port where ``RANK`` and ``WORLD_SIZE`` are set and ``MASTER_PORT`` is not."""
THIS_MACHINE = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process among those of a run."""

    launcher: str
    """Which launcher was recognised: torchrun, deepspeed, slurm, openmpi, mpi (another one, asked through mpi4py), env
    (whoever set RANK and WORLD_SIZE), or none."""
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

    def __str__(self) -> str:
        place = "on one machine" if self.single_node else f"meeting at {self.master_addr}"
        count = f"{self.world_size} processes {place}" if self.world_size > 1 else "one process"
        return f"{count}, launched by {self.launcher}"


def detect_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Find out how this process was launched from ``environment``; ``MASTER_ADDR`` and ``MASTER_PORT`` there win.

    Raises :class:`UserError` when a launcher's variables contradict each other, and when the machine to meet at cannot
    be told.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        found = _from_rendezvous(environment)
    elif int(environment.get("OMPI_COMM_WORLD_SIZE", "0")) > 0:
        found = _from_openmpi(environment)
    elif slurm_step.is_launcher(environment):
        found = _from_slurm(environment)
    elif mpi_job.is_launcher(environment):
        found = _from_mpi("mpi", environment)
    else:
        found = Launch(
            launcher="none",
            rank=0,
            world_size=1,
            local_rank=0,
            local_world_size=1,
            master_addr=THIS_MACHINE,
            master_port=free_port(),
        )
    if not 0 <= found.rank < found.world_size:
        raise UserError(f"{found.launcher}: rank {found.rank} does not fit {found.world_size} processes")
    return found


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


def _from_rendezvous(environment: Mapping[str, str]) -> Launch:
    launcher = "env"
    if "TORCHELASTIC_RUN_ID" in environment:
        launcher = "torchrun"
    elif "CROSS_RANK" in environment and "LOCAL_SIZE" in environment:
        launcher = "deepspeed"
    world = environment["WORLD_SIZE"]
    local_world = environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE")
    return Launch(
        launcher=launcher,
        rank=int(environment["RANK"]),
        world_size=int(world),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        local_world_size=int(local_world or slurm_step.tasks_here(environment) or world),
        master_addr=environment.get("MASTER_ADDR", THIS_MACHINE),
        master_port=int(environment.get("MASTER_PORT", DEFAULT_MASTER_PORT)),
    )


def _from_slurm(environment: Mapping[str, str]) -> Launch:
    step = slurm_step.read_step(environment)
    single_node = step.local_world_size == step.world_size
    return Launch(
        launcher="slurm",
        rank=step.rank,
        world_size=step.world_size,
        local_rank=step.local_rank,
        local_world_size=step.local_world_size,
        master_addr=environment.get("MASTER_ADDR")
        or (THIS_MACHINE if single_node else slurm_step.address_of(step.first_node)),
        master_port=int(environment.get("MASTER_PORT", step.port)),
    )


def _from_openmpi(environment: Mapping[str, str]) -> Launch:
    prefix = "OMPI_COMM_WORLD_"
    size, local_size = (int(environment[prefix + name]) for name in ("SIZE", "LOCAL_SIZE"))
    if size > local_size and "MASTER_ADDR" not in environment:
        return _from_mpi("openmpi", environment)  # which machine the first process is on stands in no variable
    job = environment.get("PMIX_NAMESPACE", "")
    return Launch(
        launcher="openmpi",
        rank=int(environment[prefix + "RANK"]),
        world_size=size,
        local_rank=int(environment[prefix + "LOCAL_RANK"]),
        local_world_size=local_size,
        master_addr=environment.get("MASTER_ADDR", THIS_MACHINE),
        master_port=int(environment.get("MASTER_PORT", port_of(zlib.crc32(job.encode())))),
    )


def _from_mpi(launcher: str, environment: Mapping[str, str]) -> Launch:
    job = mpi_job.join(environment)
    return Launch(
        launcher=launcher,
        rank=job.rank,
        world_size=job.world_size,
        local_rank=job.local_rank,
        local_world_size=job.local_world_size,
        master_addr=environment.get("MASTER_ADDR", job.first_host),
        master_port=int(environment.get("MASTER_PORT", job.port)),
    )
