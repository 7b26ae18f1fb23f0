"""Rendezvous: forms PyTorch's default process group, for which the ranks of a run find each other through a store.

PyTorch's store listens on all network interfaces, and whoever connects to it can join the run. On one machine ours
listens on the loopback interface only. Several machines need a network that other users cannot reach.
"""

import os
import socket
from datetime import timedelta

import torch.distributed as dist

from pause_megatron.errors import UserError, one_line
from pause_megatron.parallel.launcher import THIS_MACHINE, Launch

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""Backends of a process group, by type of device."""


def form_default_group(launch: Launch, *, backend: str, timeout: timedelta) -> None:
    """Form PyTorch's default group of all ranks unless it exists. ``timeout`` is that of every collective.

    Raises :class:`UserError` if the ranks cannot find each other.
    """
    if dist.is_initialized():
        return
    try:
        dist.init_process_group(
            backend,
            store=_loopback_store(launch, timeout) if launch.single_node and not _launcher_has_a_store() else None,
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=timeout,
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise UserError(
            f"MASTER_ADDR {launch.master_addr}, MASTER_PORT {launch.master_port}: rank {launch.rank} does not find the"
            f" other ranks there ({_reason(error)}); set them to rank 0's machine and a free port of it, and start all"
            f" {launch.world_size} ranks"
        ) from error


def _launcher_has_a_store() -> bool:
    """Return whether torchrun's agent runs the store, at ``MASTER_ADDR``."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _loopback_store(launch: Launch, timeout: timedelta) -> dist.TCPStore:
    listening = None
    if launch.rank == 0:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((THIS_MACHINE, launch.master_port))
        except OSError as error:
            raise UserError(
                f"MASTER_PORT {launch.master_port}: is not free ({error.strerror}); set it to another port"
            ) from error
        listening = server.detach()  # the store closes it
    return dist.TCPStore(
        THIS_MACHINE, launch.master_port, launch.world_size, launch.rank == 0, timeout, master_listen_fd=listening
    )


def _reason(error: BaseException) -> str:
    """Return the first sentence of a PyTorch error, which may end in a backtrace."""
    return one_line(error).partition(" Exception raised from ")[0][:200]
