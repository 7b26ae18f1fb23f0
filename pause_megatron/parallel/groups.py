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


class DeepSpeedMpu:
    """The "model parallel unit" DeepSpeed asks about groups, answered from Megatron-core's.

    A process's *model-parallel* group holds all shards of one model replica (tensor times pipeline parallel); its rank
    in it is pipeline-major, ``pp_rank * tp_size + tp_rank``, which names DeepSpeed's per-shard state.

    The group DeepSpeed takes for data-parallel is the one it partitions optimizer state over. Where every process is to
    hold all of the state (what ZeRO-0 means), that is a group of one, and the gradients have to be averaged over
    Megatron-core's data-parallel group by other means (:class:`pause_megatron.engine.flat_gradients.FlatGradients`).
    """

    get_tensor_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_tensor_model_parallel_world_size = staticmethod(parallel_state.get_tensor_model_parallel_world_size)
    get_tensor_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)
    get_pipeline_model_parallel_rank = staticmethod(parallel_state.get_pipeline_model_parallel_rank)
    get_pipeline_model_parallel_world_size = staticmethod(parallel_state.get_pipeline_model_parallel_world_size)
    get_model_parallel_group = staticmethod(parallel_state.get_model_parallel_group)

    def __init__(self, *, replicates_optimizer: bool = False) -> None:
        self._replicates_optimizer = replicates_optimizer
        self._partition_group: dist.ProcessGroup = (
            dist.new_group([dist.get_rank()], use_local_synchronization=True)
            if replicates_optimizer
            else parallel_state.get_data_parallel_group()
        )

    @property
    def optimizer_replica(self) -> int:
        """Which of the equal copies of its optimizer state this process holds; 0 where there is one only."""
        rank: int = parallel_state.get_data_parallel_rank() if self._replicates_optimizer else 0
        return rank

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """The group optimizer state is partitioned over."""
        return self._partition_group

    def get_data_parallel_rank(self) -> int:
        """This process's index in it."""
        return dist.get_rank(self._partition_group)

    def get_data_parallel_world_size(self) -> int:
        """Its size."""
        return dist.get_world_size(self._partition_group)

    @staticmethod
    def get_model_parallel_world_size() -> int:
        """Processes that hold one replica of the model."""
        size: int = (
            parallel_state.get_tensor_model_parallel_world_size()
            * parallel_state.get_pipeline_model_parallel_world_size()
        )
        return size

    @staticmethod
    def get_model_parallel_rank() -> int:
        """This process's index in its replica, pipeline-major."""
        rank: int = (
            parallel_state.get_pipeline_model_parallel_rank() * parallel_state.get_tensor_model_parallel_world_size()
            + parallel_state.get_tensor_model_parallel_rank()
        )
        return rank
