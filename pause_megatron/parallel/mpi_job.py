"""Asks MPI, through mpi4py, for the rank and the rendezvous of a process if its launcher sets too few variables.

MPI is finalized again at once. Training communicates through its own process groups, and a process that ended while MPI
is initialized would keep the others from finalizing it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from pause_megatron.errors import UserError
from pause_megatron.parallel.ports import free_port

_LAUNCHER_VARIABLES = ("PMI_SIZE", "PMIX_RANK")
"""Set by the ``mpiexec`` of MPICH and Intel MPI, and by launchers that speak PMIx."""


@dataclass(frozen=True, kw_only=True)
class MpiProcess:
    """One process of an MPI job."""

    rank: int
    """Index of this process in the job."""
    world_size: int
    """Processes of the job."""
    local_rank: int
    """Index of this process among those on its machine."""
    local_world_size: int
    """Processes on its machine."""
    first_host: str
    """Host name of process 0."""
    port: int
    """A port that was free there."""


def is_launcher(environment: Mapping[str, str]) -> bool:
    """Return whether an MPI launcher started this process."""
    return any(name in environment for name in _LAUNCHER_VARIABLES)


def join(environment: Mapping[str, str]) -> MpiProcess:
    """Initialize MPI, exchange rank 0's address, and finalize MPI.

    Raises :class:`UserError` without mpi4py or an MPI library, and if the library does not belong to the launcher: then
    every process would take itself for the only one.
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
    address = (socket.gethostname(), free_port()) if world.rank == 0 else None
    host, port = world.bcast(address)
    found = MpiProcess(
        rank=world.rank,
        world_size=world.size,
        local_rank=same_machine.rank,
        local_world_size=same_machine.size,
        first_host="127.0.0.1" if same_machine.size == world.size else host,
        port=port,
    )
    same_machine.Free()
    MPI.Finalize()
    return found
