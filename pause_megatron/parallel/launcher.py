"""Launcher detection: translates the variables of each launcher into those of PyTorch's rendezvous.

torchrun, DeepSpeed's ``deepspeed``, Slurm's ``srun`` and Open MPI's ``mpirun`` each describe a process in environment
variables of their own; other MPI libraries are asked through mpi4py. PyTorch reads ``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``. Without a launcher the process is a run of one rank.
"""

import os
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from pause_megatron.config.parallel import DEVICE_VARIABLE, DeviceChoice
from pause_megatron.errors import UserError
from pause_megatron.parallel import slurm_step
from pause_megatron.parallel.ports import free_port, port_of

DEFAULT_MASTER_PORT = 29500
"""Rendezvous port if ``RANK`` and ``WORLD_SIZE`` are set but ``MASTER_PORT`` is not."""
THIS_MACHINE = "127.0.0.1"
_OPENMPI = "OMPI_COMM_WORLD_"
_OPENMPI_LOCAL_RANK = f"{_OPENMPI}LOCAL_RANK"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process of a run."""

    launcher: str
    """Detected launcher: torchrun, deepspeed, slurm, openmpi, mpi (another one, asked through mpi4py), env (RANK and
    WORLD_SIZE were set by hand), or none."""
    rank: int
    """Index of this process in the run."""
    world_size: int
    """Processes of the run."""
    local_rank: int
    """Index of this process on its node."""
    local_world_size: int
    """Processes on this node."""
    master_addr: str
    master_port: int

    @property
    def single_node(self) -> bool:
        """Whether all processes run on this machine."""
        return self.local_world_size == self.world_size

    def __str__(self) -> str:
        place = "on one machine" if self.single_node else f"meeting at {self.master_addr}"
        count = f"{self.world_size} processes {place}" if self.world_size > 1 else "one process"
        return f"{count}, launched by {self.launcher}"


def detect_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Detect the launcher from ``environment``; ``MASTER_ADDR`` and ``MASTER_PORT`` override the launcher's address.

    Raises :class:`UserError` if a launcher's variables contradict each other, or if the rendezvous host is unknown.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        found = _from_rendezvous(environment)
    elif int(environment.get("OMPI_COMM_WORLD_SIZE", "0")) > 0:
        found = _from_openmpi(environment)
    elif slurm_step.is_launcher(environment):
        found = _from_slurm(environment)
    elif "PMI_SIZE" in environment or "PMIX_RANK" in environment:  # MPICH, Intel MPI, and launchers that speak PMIx
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
        raise UserError(
            f"{found.launcher}: rank {found.rank} does not exist in a world of {found.world_size} processes;"
            f" start ranks 0 to {found.world_size - 1}"
        )
    return found


def resolve_device_choice(choice: DeviceChoice, environment: Mapping[str, str] = os.environ) -> DeviceChoice:
    """Return what "auto" means in ``environment``, see :data:`DEVICE_VARIABLE`; other values as they are."""
    found = environment.get(DEVICE_VARIABLE, "auto")
    if found not in get_args(DeviceChoice):
        raise UserError(f"{DEVICE_VARIABLE} {found}: unknown device; set {', '.join(get_args(DeviceChoice))}")
    return cast(DeviceChoice, found) if choice == "auto" else choice


def export_launch(launch: Launch, *, gpu: int | None = None) -> None:
    """Set the environment variables that PyTorch's ``env://`` rendezvous and DeepSpeed read.

    DeepSpeed and accelerate use the GPU with the number in ``LOCAL_RANK``. Give that of this process as ``gpu``: it is
    not the local rank if each process sees only its own GPU, as number 0.
    """
    local_rank = str(launch.local_rank if gpu is None else gpu)
    if _OPENMPI_LOCAL_RANK in os.environ:
        os.environ[_OPENMPI_LOCAL_RANK] = local_rank  # DeepSpeed insists that both are equal
    os.environ.update(
        RANK=str(launch.rank),
        WORLD_SIZE=str(launch.world_size),
        LOCAL_RANK=local_rank,
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
    world_size = int(environment["SLURM_STEP_NUM_TASKS"])
    local_world_size = slurm_step.tasks_here(environment) or world_size
    host = environment.get("MASTER_ADDR") or (THIS_MACHINE if local_world_size == world_size else "")
    return Launch(
        launcher="slurm",
        rank=int(environment["SLURM_PROCID"]),
        world_size=world_size,
        local_rank=int(environment.get("SLURM_LOCALID", "0")),
        local_world_size=local_world_size,
        master_addr=host or slurm_step.address_of(slurm_step.first_node(environment.get("SLURM_STEP_NODELIST", ""))),
        master_port=int(environment.get("MASTER_PORT", slurm_step.step_port(environment))),
    )


def _from_openmpi(environment: Mapping[str, str]) -> Launch:
    size, local_size = (int(environment[_OPENMPI + name]) for name in ("SIZE", "LOCAL_SIZE"))
    if size > local_size and "MASTER_ADDR" not in environment:
        return _from_mpi("openmpi", environment)  # no variable names the machine of rank 0
    job = environment.get("PMIX_NAMESPACE", "")
    return Launch(
        launcher="openmpi",
        rank=int(environment[f"{_OPENMPI}RANK"]),
        world_size=size,
        local_rank=int(environment[_OPENMPI_LOCAL_RANK]),
        local_world_size=local_size,
        master_addr=environment.get("MASTER_ADDR", THIS_MACHINE),
        master_port=int(environment.get("MASTER_PORT", port_of(zlib.crc32(job.encode())))),
    )


def _from_mpi(launcher: str, environment: Mapping[str, str]) -> Launch:
    """Initialize MPI, exchange rank 0's address, and finalize MPI again.

    Training communicates through its own process groups, and a process that ended while MPI is initialized would keep
    the others from finalizing it.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"MPI: a launcher started this process, but mpi4py finds no MPI library ({error}); install mpi4py for that"
            " MPI, or set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        ) from error
    MPI.Init()
    world = MPI.COMM_WORLD
    started = int(environment.get("PMI_SIZE", world.size))
    if started != world.size:
        raise UserError(
            f"MPI: {started} processes were started, but MPI joins {world.size} of them: mpi4py's MPI library is not"
            " that of the launcher; use its mpirun, or put the launcher's library on LD_LIBRARY_PATH (and set"
            " MPI4PY_MPIABI=mpich for MPICH and Intel MPI)"
        )
    same_machine = world.Split_type(MPI.COMM_TYPE_SHARED)
    host, port = world.bcast((socket.gethostname(), free_port()) if world.rank == 0 else None)
    launch = Launch(
        launcher=launcher,
        rank=world.rank,
        world_size=world.size,
        local_rank=same_machine.rank,
        local_world_size=same_machine.size,
        master_addr=environment.get("MASTER_ADDR", THIS_MACHINE if same_machine.size == world.size else host),
        master_port=int(environment.get("MASTER_PORT", port)),
    )
    same_machine.Free()
    MPI.Finalize()
    return launch
