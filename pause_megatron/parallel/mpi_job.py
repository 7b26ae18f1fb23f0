"""Asks MPI itself who we are among how many, through mpi4py: for launchers whose variables say too little.

MPI is left again at once. Training exchanges through its own process groups, and a process that ended while MPI is in
use would keep the others from leaving it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from pause_megatron.errors import UserError
from pause_megatron.parallel.ports import free_port

_LAUNCHER_VARIABLES = ("PMI_SIZE", "PMIX_RANK")
"""Set by the ``mpiexec`` of MPICH, Intel MPI and their kin, and by whatever speaks PMIx."""


@dataclass(frozen=True, kw_only=True)
class MpiProcess:
    """One process among those of an MPI job."""

    rank: int
    """Index of this process among all."""
    world_size: int
    """Processes of the job."""
    local_rank: int
    """Index of this process among those that share its memory."""
    local_world_size: int
    """Processes that share its memory."""
    first_host: str
    """The machine of process 0, by its own name."""
    port: int
    """A port that was free there."""


def is_launcher(environment: Mapping[str, str]) -> bool:
    """Whether an MPI launcher started this process."""
    return any(name in environment for name in _LAUNCHER_VARIABLES)


def join(environment: Mapping[str, str]) -> MpiProcess:
    """Meet all processes of the job in MPI, once, and leave it.

    Raises :class:`UserError` without mpi4py or an MPI library, and when it is not the launcher's, so that each process
    would take itself for the only one.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"an MPI launcher started this process, but mpi4py finds no MPI library ({error}); install mpi4py for that"
            " MPI, or set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        ) from error
    MPI.Init()
    world = MPI.COMM_WORLD
    started = int(environment.get("PMI_SIZE", world.size))
    if started != world.size:
        raise UserError(
            f"{started} processes were started, but MPI joins {world.size} of them: mpi4py's MPI library is not that of"
            " the launcher; use its mpirun, or put the launcher's library on LD_LIBRARY_PATH (and set"
            " MPI4PY_MPIABI=mpich for MPICH and Intel MPI)"
        )
    neighbours = world.Split_type(MPI.COMM_TYPE_SHARED)
    meeting = (socket.gethostname(), free_port()) if world.rank == 0 else None
    host, port = world.bcast(meeting)
    found = MpiProcess(
        rank=world.rank,
        world_size=world.size,
        local_rank=neighbours.rank,
        local_world_size=neighbours.size,
        first_host="127.0.0.1" if neighbours.size == world.size else host,
        port=port,
    )
    neighbours.Free()
    MPI.Finalize()
    return found
