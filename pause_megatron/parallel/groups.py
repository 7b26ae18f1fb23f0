"""Process groups of PyTorch, Megatron-core and DeepSpeed."""

from datetime import timedelta

import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from pause_megatron.config.parallel import DeviceChoice, Layout
from pause_megatron.parallel.cpu import install_cpu_shims
from pause_megatron.parallel.gloo_interface import choose_gloo_interface
from pause_megatron.parallel.launcher import Launch, export_launch, withdraw_launch
from pause_megatron.parallel.process_device import choose_device, device
from pause_megatron.parallel.rendezvous import BACKENDS, form_default_group

__all__ = ["DeepSpeedMpu", "destroy_process_groups", "device", "initialize_process_groups"]


def initialize_process_groups(
    launch: Launch,
    layout: Layout,
    *,
    seed: int,
    timeout: timedelta = timedelta(minutes=30),
    device_choice: DeviceChoice = "auto",
) -> None:
    """Start PyTorch's default group (gloo, and on GPUs NCCL too) unless it exists, and Megatron-core's groups.

    ``timeout`` is that of every collective. The process computes on the device of ``device_choice`` unless it has
    chosen one before. Call :func:`destroy_process_groups` at the end. Raises :class:`UserError` if the device cannot be
    used, gloo's network interface is unclear, or the ranks cannot find each other.
    """
    assert launch.world_size == layout.world_size, "the layout was resolved against another world size"
    own_device = choose_device(device_choice, launch, tensor_parallel=layout.tp > 1)
    if own_device.type == "cpu":
        install_cpu_shims()
    export_launch(launch, gpu=own_device.index)
    choose_gloo_interface(launch)
    form_default_group(launch, backend=BACKENDS[own_device.type], timeout=timeout)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vp if layout.vp > 1 else None,
        distributed_timeout_minutes=timeout.total_seconds() / 60,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def destroy_process_groups() -> None:
    """Destroy Megatron-core's groups and PyTorch's, and set the environment back to what it was before them."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
    withdraw_launch()


class DeepSpeedMpu:
    """The "model parallel unit" through which DeepSpeed sees Megatron-core's process groups.

    The *model-parallel* group of a rank holds all shards of one model replica (tensor times pipeline parallel). The
    rank in it is pipeline-major, ``pp_rank * tp_size + tp_rank``, and names DeepSpeed's state of each shard.

    DeepSpeed partitions optimizer state over the group that it takes for data-parallel. Under ZeRO-0 every rank holds
    the complete state, so that group has only one rank; :class:`~pause_megatron.engine.flat_gradients.FlatGradients`
    then averages gradients over Megatron-core's data-parallel group.
    """

    get_tensor_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_tensor_model_parallel_world_size = staticmethod(parallel_state.get_tensor_model_parallel_world_size)
    get_tensor_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)
    get_pipeline_model_parallel_rank = staticmethod(parallel_state.get_pipeline_model_parallel_rank)
    get_pipeline_model_parallel_world_size = staticmethod(parallel_state.get_pipeline_model_parallel_world_size)
    get_model_parallel_group = staticmethod(parallel_state.get_model_parallel_group)

    def __init__(self, *, replicates_optimizer: bool = False) -> None:
        self._partition_group: dist.ProcessGroup = (
            parallel_state.get_context_parallel_group()  # only this rank, because no context is divided
            if replicates_optimizer
            else parallel_state.get_data_parallel_group()
        )

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Return the group that optimizer state is partitioned over."""
        return self._partition_group

    def get_data_parallel_rank(self) -> int:
        """Return this process's rank in :meth:`get_data_parallel_group`."""
        return dist.get_rank(self._partition_group)

    def get_data_parallel_world_size(self) -> int:
        """Return the size of :meth:`get_data_parallel_group`."""
        return dist.get_world_size(self._partition_group)

    @staticmethod
    def get_model_parallel_world_size() -> int:
        """Return the number of ranks that hold one replica of the model."""
        return dist.get_world_size(parallel_state.get_model_parallel_group())

    @staticmethod
    def get_model_parallel_rank() -> int:
        """Return this process's rank in its replica, pipeline-major."""
        return dist.get_rank(parallel_state.get_model_parallel_group())
