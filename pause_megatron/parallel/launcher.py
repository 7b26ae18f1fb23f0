"""Launcher detection: translates the variables of each launcher into those of PyTorch's rendezvous.

torchrun, DeepSpeed's ``deepspeed``, Slurm's ``srun`` and Open MPI's ``mpirun`` each describe a process in environment
variables of their own; other MPI libraries are asked through mpi4py. PyTorch reads ``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``. Without a launcher the process is a run of one rank.
"""

import json
import os
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from pause_megatron.config.parallel import DEVICE_VARIABLE, DeviceChoice
from pause_megatron.errors import UserError
from pause_megatron.launcher_variables import index_of, number_of, port_of_rendezvous, text_of
from pause_megatron.parallel import slurm_step
from pause_megatron.parallel.ports import free_port, port_of

DEFAULT_MASTER_PORT = 29500
"""Rendezvous port if ``RANK`` and ``WORLD_SIZE`` are set but ``MASTER_PORT`` is not."""
THIS_MACHINE = "127.0.0.1"
_OPENMPI = "OMPI_COMM_WORLD_"
_OPENMPI_LOCAL_RANK = f"{_OPENMPI}LOCAL_RANK"
_RANKS_AND_SIZES = (("RANK", "WORLD_SIZE"), (f"{_OPENMPI}RANK", f"{_OPENMPI}SIZE"), ("PMI_RANK", "PMI_SIZE"))
_HOST_AND_PORT_BYTES = 512


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

    Raises :class:`UserError` that names the variable if a launcher's variables are malformed, missing or contradict
    each other, and if the rendezvous host is unknown.
    """
    if text_of(environment, "RANK") and text_of(environment, "WORLD_SIZE"):
        return _from_rendezvous(environment)
    if number_of(environment, f"{_OPENMPI}SIZE", 0) > 0:
        return _from_openmpi(environment)
    if slurm_step.is_launcher(environment):
        return _from_slurm(environment)
    if text_of(environment, "PMI_SIZE") or text_of(environment, "PMIX_RANK"):  # MPICH, Intel MPI; others speak PMIx
        return _from_mpi("mpi", environment)
    _refuse_half_of_a_launcher(environment)
    return Launch(
        launcher="none",
        rank=0,
        world_size=1,
        local_rank=0,
        local_world_size=1,
        master_addr=THIS_MACHINE,
        master_port=free_port(),
    )


def _refuse_half_of_a_launcher(environment: Mapping[str, str]) -> None:
    """Raise :class:`UserError` for a rank without a number of ranks, or the reverse: all ranks would run alone."""
    for rank_name, size_name in _RANKS_AND_SIZES:
        rank, size = text_of(environment, rank_name), text_of(environment, size_name)
        if (rank not in ("", "0") and not size) or (size not in ("", "0", "1") and not rank):
            given, missing = (rank_name, size_name) if rank else (size_name, rank_name)
            raise UserError(f"{missing}: is not set, but {given} is; set both, or none for a run of one process")


def resolve_device_choice(choice: DeviceChoice, environment: Mapping[str, str] = os.environ) -> DeviceChoice:
    """Return what "auto" means in ``environment``, see :data:`DEVICE_VARIABLE`; other values as they are."""
    found = environment.get(DEVICE_VARIABLE, "auto")
    if found not in get_args(DeviceChoice):
        raise UserError(f"{DEVICE_VARIABLE} {found}: unknown device; set {', '.join(get_args(DeviceChoice))}")
    return cast(DeviceChoice, found) if choice == "auto" else choice


_before_export: dict[str, str | None] = {}
"""Variables that :func:`export_launch` has set, and their values before."""
_exported: dict[str, str] = {}
"""The same variables, and the values that it has set."""


def export_launch(launch: Launch, *, gpu: int | None = None) -> None:
    """Set the environment variables that PyTorch's ``env://`` rendezvous and DeepSpeed read.

    DeepSpeed and accelerate use the GPU with the number in ``LOCAL_RANK``. Give that of this process as ``gpu``: it is
    not the local rank if each process sees only its own GPU, as number 0.
    """
    local_rank = str(launch.local_rank if gpu is None else gpu)
    if _OPENMPI_LOCAL_RANK in os.environ:
        os.environ[_OPENMPI_LOCAL_RANK] = local_rank  # DeepSpeed insists that both are equal
    values = {
        "RANK": str(launch.rank),
        "WORLD_SIZE": str(launch.world_size),
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": str(launch.local_world_size),
        "MASTER_ADDR": launch.master_addr,
        "MASTER_PORT": str(launch.master_port),
    }
    for name in values:
        found = os.environ.get(name)
        if found is None or found != _exported.get(name):  # not the value of an earlier call
            _before_export[name] = found
    os.environ.update(values)
    _exported.update(values)


def withdraw_launch() -> None:
    """Set the variables of :func:`export_launch` back: a later command in this process is not one of those ranks.

    A variable that has been changed since keeps its value.
    """
    for name, value in _before_export.items():
        if os.environ.get(name) != _exported[name]:
            continue
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    _before_export.clear()
    _exported.clear()


def _from_rendezvous(environment: Mapping[str, str]) -> Launch:
    launcher = "env"
    if "TORCHELASTIC_RUN_ID" in environment:
        launcher = "torchrun"
    elif "CROSS_RANK" in environment and "LOCAL_SIZE" in environment:
        launcher = "deepspeed"
    world_size = number_of(environment, "WORLD_SIZE", least=1)
    local_name = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if text_of(environment, name)), "")
    if local_name:
        local_world_size = number_of(environment, local_name, least=1, most=world_size)
    else:
        local_world_size = slurm_step.tasks_here(environment) or _all_here(environment, world_size)
    host = text_of(environment, "MASTER_ADDR")
    if not host and local_world_size < world_size:
        raise UserError(
            f"MASTER_ADDR: is not set, but {launcher} started processes on several machines; set it to rank 0's"
        )
    return Launch(
        launcher=launcher,
        rank=index_of(environment, "RANK", size=world_size, size_name="WORLD_SIZE"),
        world_size=world_size,
        local_rank=index_of(
            environment, "LOCAL_RANK", 0, size=local_world_size, size_name=local_name or "the number of processes here"
        ),
        local_world_size=local_world_size,
        master_addr=host or THIS_MACHINE,
        master_port=port_of_rendezvous(environment, DEFAULT_MASTER_PORT),
    )


def _all_here(environment: Mapping[str, str], world_size: int) -> int:
    """Return ``world_size`` if nothing says that some processes run on other machines."""
    host = text_of(environment, "MASTER_ADDR")
    if world_size > 1 and host and not is_this_machine(host):
        raise UserError(
            f"LOCAL_WORLD_SIZE: is not set, but MASTER_ADDR {host} is another machine; set it to the number of"
            " processes on this machine"
        )
    return world_size


def is_this_machine(host: str) -> bool:
    """Return whether ``host`` is a name or address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)  # works only for an own address
    except (OSError, UnicodeError):
        return False
    return True


def _from_slurm(environment: Mapping[str, str]) -> Launch:
    slurm_step.refuse_heterogeneous(environment)
    world_size = number_of(environment, "SLURM_STEP_NUM_TASKS", least=1)
    local_world_size = slurm_step.tasks_here(environment) or world_size
    host = text_of(environment, "MASTER_ADDR") or (THIS_MACHINE if local_world_size == world_size else "")
    return Launch(
        launcher="slurm",
        rank=index_of(environment, "SLURM_PROCID", size=world_size, size_name="SLURM_STEP_NUM_TASKS"),
        world_size=world_size,
        local_rank=index_of(
            environment, "SLURM_LOCALID", 0, size=local_world_size, size_name="SLURM_STEP_TASKS_PER_NODE"
        ),
        local_world_size=local_world_size,
        master_addr=host or slurm_step.address_of(slurm_step.first_node(text_of(environment, "SLURM_STEP_NODELIST"))),
        master_port=port_of_rendezvous(environment, slurm_step.step_port(environment)),
    )


def _from_openmpi(environment: Mapping[str, str]) -> Launch:
    size = number_of(environment, f"{_OPENMPI}SIZE", least=1)
    local_size = number_of(environment, f"{_OPENMPI}LOCAL_SIZE", least=1, most=size)
    host = text_of(environment, "MASTER_ADDR")
    if size > local_size and not host:
        return _from_mpi("openmpi", environment)  # no variable names the machine of rank 0
    job = environment.get("PMIX_NAMESPACE", "")
    return Launch(
        launcher="openmpi",
        rank=index_of(environment, f"{_OPENMPI}RANK", size=size, size_name=f"{_OPENMPI}SIZE"),
        world_size=size,
        local_rank=index_of(environment, _OPENMPI_LOCAL_RANK, size=local_size, size_name=f"{_OPENMPI}LOCAL_SIZE"),
        local_world_size=local_size,
        master_addr=host or THIS_MACHINE,
        master_port=port_of_rendezvous(environment, port_of(zlib.crc32(job.encode()))),
    )


def _from_mpi(launcher: str, environment: Mapping[str, str]) -> Launch:
    """Initialize MPI, exchange rank 0's address, and finalize MPI again.

    Training communicates through its own process groups, and a process that ended while MPI is initialized would keep
    the others from finalizing it.
    """
    started = number_of(environment, "PMI_SIZE", 0)
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
    if started not in (0, world.size):
        raise UserError(
            f"MPI: {started} processes were started, but MPI joins {world.size} of them: mpi4py's MPI library is not"
            " that of the launcher; use its mpirun, or put the launcher's library on LD_LIBRARY_PATH (and set"
            " MPI4PY_MPIABI=mpich for MPICH and Intel MPI)"
        )
    same_machine = world.Split_type(MPI.COMM_TYPE_SHARED)
    message = bytearray(json.dumps([socket.gethostname(), free_port()]).ljust(_HOST_AND_PORT_BYTES).encode())
    world.Bcast(message)  # of rank 0; bcast would unpickle what it receives
    host, port = json.loads(message)
    launch = Launch(
        launcher=launcher,
        rank=world.rank,
        world_size=world.size,
        local_rank=same_machine.rank,
        local_world_size=same_machine.size,
        master_addr=text_of(environment, "MASTER_ADDR") or (THIS_MACHINE if same_machine.size == world.size else host),
        master_port=port_of_rendezvous(environment, port),
    )
    same_machine.Free()
    MPI.Finalize()
    return launch
