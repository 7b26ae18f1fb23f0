"""Process groups: PyTorch's and Megatron-core's."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from pause_megatron.config.parallel import Layout
from pause_megatron.parallel.cpu import install_cpu_shims
from pause_megatron.parallel.launcher import Launch, export_launch

GROUP_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others in one exchange, unless it is told otherwise."""


def device() -> torch.device:
    """Where this process computes: its own GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def initialize_process_groups(launch: Launch, layout: Layout, *, seed: int, timeout: timedelta = GROUP_TIMEOUT) -> None:
    """Start PyTorch's default group (gloo for the CPU, NCCL for GPUs), unless it is there, and Megatron-core's groups.

    Call :func:`destroy_process_groups` at the end.
    """
    assert launch.world_size == layout.world_size, "the layout was resolved against another world size"
    install_cpu_shims()
    export_launch(launch)
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank)
    elif launch.single_node:
        # gloo looks the host's own name up to choose an interface, which fails on many laptops and containers.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if not dist.is_initialized():
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=timeout,
        )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vp if layout.vp > 1 else None,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def destroy_process_groups() -> None:
    """Leave Megatron-core's groups and PyTorch's."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
