"""In-place gradients and fp32 weights of ZeRO-0 and ZeRO-1: one flat buffer for each parameter group.

DeepSpeed's own path (bucket, reduction, partition, flattening) makes four passes over memory and needs room for two
more copies of the gradients. Here every parameter's gradient is from the start a view of a buffer with the layout of
DeepSpeed's flat weights. One reduce-scatter a group gives each rank its partition, and the fused optimizer scales
and clips that partition while reading it.

The buffers may have a higher precision than the weights, for example fp32 for bf16 weights: each microbatch's gradient
is then added when it is complete. DeepSpeed has another optimizer for this, which breaks under pipeline schedules.

Shapes, for a group of ``N`` elements (padded to a multiple of ``D``) on ``D`` data-parallel ranks::

    buffer, weights (bit16_groups_flat)     [N]      on every rank
    partition, fp32 master weights          [N / D]  rank r owns elements r * N / D to (r + 1) * N / D
    view (main_grad)                        the parameter's shape; may span the partitions of several ranks
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.utils import is_model_parallel_parameter
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

_ROW_LENGTH = 4096
"""Elements whose squares are summed in fp32 (relative error 1e-7); the sums of rows are added in fp64."""
_CLIP_EPSILON = 1e-6
"""Added to the norm before clipping, as PyTorch and DeepSpeed do."""


class FlatGradients:
    """Replaces the gradient handling of a ZeRO-1 optimizer; DeepSpeed calls these methods in place of its own."""

    def __init__(
        self, zero: DeepSpeedZeroOptimizer, dtype: torch.dtype, *, replicated_over: dist.ProcessGroup | None = None
    ) -> None:
        """Replace the methods of ``zero``.

        Args:
            zero: a stage-1 optimizer with its state on the weights' device, around a fused AdamW.
            dtype: dtype in which gradients are accumulated and reduced.
            replicated_over: for ZeRO-0, where ``zero`` partitions over one rank: the data-parallel group to average
                the gradients over.
        """
        assert isinstance(zero, DeepSpeedZeroOptimizer)
        assert not any((zero.partition_gradients, zero.cpu_offload, zero.use_grad_accum_attribute))
        assert zero.optimizer.defaults["fused"]
        self._zero = zero
        self._replicated_over = replicated_over
        self._buffers = [torch.zeros_like(weights, dtype=dtype) for weights in zero.bit16_groups_flat]
        self._views = list(self._make_views())
        self._counted = [list(self._counted_ranges(group)) for group in range(len(self._buffers))]
        for hook in zero._grad_acc_hooks:  # DeepSpeed's hooks would allocate its buckets
            hook.remove()
        zero.reduce_gradients = self._reduce
        zero.zero_grad = self._clear
        zero.check_overflow = lambda **_: None  # saves two passes: the norm is not finite if a gradient is not
        zero.scaled_global_norm = self._norm
        zero.unscale_and_clip_grads = self._scale_in_the_update
        for view, parameter in self._views:
            parameter.main_grad = view  # Megatron-core's name for it
            if view.dtype != parameter.dtype:
                parameter.register_post_accumulate_grad_hook(_add_to_main_grad)
        self._clear()

    def _make_views(self) -> Iterator[tuple[torch.Tensor, Any]]:
        """Each parameter's view of its group's buffer, and the parameter."""
        zero = self._zero
        for buffer, weights, parameters in zip(self._buffers, zero.bit16_groups_flat, zero.bit16_groups, strict=True):
            for parameter in parameters:
                yield buffer.narrow(0, _start(parameter, weights), parameter.numel()).view_as(parameter), parameter

    def _counted_ranges(self, group: int) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) ranges of this rank's partition that count toward the norm; adjacent ranges are merged.

        A parameter that several ranks hold, such as a norm under tensor parallelism, counts on one of them only.
        """
        zero, weights = self._zero, self._zero.bit16_groups_flat[group]
        size, rank = zero.partition_size[group], dist.get_rank(zero.real_dp_process_group[group])
        begin = end = 0
        for parameter in zero.params_in_partition[group]:
            replicated = getattr(parameter, "ds_pipe_replicated", False)
            if replicated or not (is_model_parallel_parameter(parameter) or zero.model_parallel_rank == 0):
                continue
            # From positions in the buffer [N] to positions in the partition [N / D], cut at both of its ends.
            start = _start(parameter, weights) - rank * size
            first, last = max(start, 0), min(start + parameter.numel(), size)
            if first != end:
                yield begin, end
                begin = first
            end = last
        yield begin, end

    def _clear(self, set_to_none: bool = False) -> None:
        """Zero the buffers and set every ``grad`` to its view again: DeepSpeed's step sets them to None."""
        for buffer in self._buffers:
            buffer.zero_()
        for view, parameter in self._views:
            parameter.grad = view if view.dtype == parameter.dtype else None

    def _reduce(self, pipeline_parallel: bool = False) -> None:
        """Average the gradients over the data-parallel ranks and hand this rank's partitions to DeepSpeed."""
        for group, buffer in enumerate(self._buffers):
            if self._replicated_over is not None:  # ZeRO-0: D = 1 below, and the partition is the buffer
                dist.all_reduce(buffer, group=self._replicated_over)
                buffer /= dist.get_world_size(self._replicated_over)
            process_group = self._zero.real_dp_process_group[group]
            size, rank = self._zero.partition_size[group], dist.get_rank(process_group)
            partition = buffer.narrow(0, rank * size, size)  # [N / D], a view
            if (ranks := dist.get_world_size(process_group)) > 1:
                dist.reduce_scatter_tensor(partition, buffer, group=process_group)  # in place: the output is a view
                partition /= ranks
            self._zero.averaged_gradients[group] = _Partition(partition)

    def _norm(self, norm_type: int = 2) -> torch.Tensor:
        """Norm of the averaged gradients over all ranks, fp32 scalar; -1, as in DeepSpeed, if it is not finite.

        DeepSpeed's own norm copies every gradient to fp64.
        """
        assert norm_type == 2
        zero = self._zero
        total = torch.zeros((), dtype=torch.float64, device=zero.device)
        for group, ranges in enumerate(self._counted):
            partition = zero.averaged_gradients[group].flat_partition
            for begin, end in ranges:
                total += sum_of_squares(partition[begin:end])
        dist.all_reduce(total, group=zero.dp_process_group)
        zero._model_parallel_all_reduce(total, op=dist.ReduceOp.SUM)
        norm = total.sqrt().float()
        return torch.where(norm.isfinite(), norm, -1.0)

    def _scale_in_the_update(self, gradients: Sequence[torch.Tensor], norm: torch.Tensor) -> None:
        """Make the fused optimizer divide the gradients by the loss scale and the clipping factor."""
        zero = self._zero
        scale = float(zero.loss_scale)
        if zero.clip_grad > 0:
            scale *= max((float(norm) / scale + _CLIP_EPSILON) / zero.clip_grad, 1.0)
        zero.optimizer.grad_scale = None if scale == 1 else torch.tensor(scale, device=zero.device)


class _Partition(list[torch.Tensor]):
    """Stand-in for DeepSpeed's list of gradient pieces of a group, which it flattens unless it finds this attribute.
    The list itself stays empty: nothing reads the pieces."""

    def __init__(self, flat_partition: torch.Tensor) -> None:
        super().__init__()
        self.flat_partition = flat_partition


def share_weights(zero: DeepSpeedZeroOptimizer) -> None:
    """Make the fp32 master weights of ``zero`` views of the model's own weights; for models in fp32.

    DeepSpeed keeps a second copy in every precision and copies it back after each update. Sharing saves both.
    """
    for group, master in enumerate(zero.single_partition_of_fp32_groups):
        # parallel_partitioned_bit16_groups[group] are the D partitions [N / D] of the model's flat weights [N].
        own = zero.parallel_partitioned_bit16_groups[group][dist.get_rank(zero.real_dp_process_group[group])]
        assert own.dtype == master.dtype
        master.data = own.data
    zero._link_all_hp_params()  # point every parameter's _hp_mapping to the new master weights


def sum_of_squares(values: torch.Tensor) -> torch.Tensor:
    """Sum of the squares of flat ``values``, fp64 scalar, exact to fp32 precision and without a copy of them."""
    even = len(values) // _ROW_LENGTH * _ROW_LENGTH
    # [even] -> [rows, 4096] -> [rows]; an fp32 sum over all elements would lose small values next to a large total.
    rows = torch.linalg.vector_norm(values[:even].view(-1, _ROW_LENGTH), dim=1, dtype=torch.float32)
    rest = torch.linalg.vector_norm(values[even:], dtype=torch.float32)
    total: torch.Tensor = rows.double().square().sum() + rest.double().square()
    return total


def _add_to_main_grad(parameter: Any) -> None:
    if parameter.grad is not None:  # None if the layer has added it to main_grad itself
        parameter.main_grad.add_(parameter.grad)
        parameter.grad = None


def _start(parameter: torch.Tensor, weights: torch.Tensor) -> int:
    """Offset of ``parameter`` in its group's flat ``weights`` [N], which it is a view of."""
    return int(parameter.data.storage_offset() - weights.storage_offset())
