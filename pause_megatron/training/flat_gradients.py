"""Gradients of ZeRO-0 and ZeRO-1 accumulate where the optimizer reads them: in one flat buffer a parameter group.

DeepSpeed's own way takes each finished gradient into a bucket, reduces the bucket, copies what this process owns into a
partition and flattens that once more for the optimizer: four passes over memory, and room for two more copies of the
gradients. Here every parameter's gradient is from the start a view of a buffer laid out as DeepSpeed lays out the
weights, so that the backward pass writes to the final place, one reduce-scatter per group gives each data-parallel
process its partition, and the optimizer takes that partition as it is, scaling and clipping it while it reads.

The buffers may be of a higher precision than the weights: each microbatch's gradient is then added when it is complete.
DeepSpeed has another optimizer for that, which pipeline schedules confuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.utils import is_model_parallel_parameter
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

_ROW = 4096
"""Elements whose squares are summed in fp32, a relative error of 1e-7; sums of rows are added up in fp64."""
_TINY = 1e-6
"""Added to the norm that gradients are clipped by, as PyTorch and DeepSpeed do."""


class FlatGradients:
    """Takes over the gradients of a ZeRO-1 optimizer; DeepSpeed goes on to call it where it called its own methods."""

    def __init__(
        self, zero: DeepSpeedZeroOptimizer, dtype: torch.dtype, *, replicated_over: dist.ProcessGroup | None = None
    ) -> None:
        """Take over.

        Args:
            zero: an optimizer of stage 1 that keeps its state on the weights' device, around a fused AdamW.
            dtype: what gradients are accumulated and reduced in.
            replicated_over: the data-parallel processes, when ``zero`` partitions over none of them (ZeRO-0): the
                gradients are averaged over these instead.
        """
        assert isinstance(zero, DeepSpeedZeroOptimizer)
        assert not any((zero.partition_gradients, zero.cpu_offload, zero.use_grad_accum_attribute))
        assert zero.optimizer.defaults["fused"]
        self._zero = zero
        self._replicated_over = replicated_over
        self._buffers = [torch.zeros_like(weights, dtype=dtype) for weights in zero.bit16_groups_flat]
        self._views = list(self._lay_out())
        self._counted = [list(self._spans_counted_here(group)) for group in range(len(self._buffers))]
        for hook in zero._grad_acc_hooks:  # they would allocate the buckets
            hook.remove()
        zero.reduce_gradients = self._reduce
        zero.zero_grad = self._clear
        zero.check_overflow = lambda **_: None  # two more passes: what is not finite shows in the norm
        zero.scaled_global_norm = self._norm
        zero.unscale_and_clip_grads = self._scale_in_the_update
        for view, parameter in self._views:
            parameter.main_grad = view  # as Megatron-core calls it
            if view.dtype != parameter.dtype:
                parameter.register_post_accumulate_grad_hook(_add_to_main_grad)
        self._clear()

    def _lay_out(self) -> Iterator[tuple[torch.Tensor, Any]]:
        """Each parameter's part of the buffers, in its shape, and the parameter."""
        zero = self._zero
        for buffer, weights, parameters in zip(self._buffers, zero.bit16_groups_flat, zero.bit16_groups, strict=True):
            for parameter in parameters:
                yield buffer.narrow(0, _start(parameter, weights), parameter.numel()).view_as(parameter), parameter

    def _spans_counted_here(self, group: int) -> Iterator[tuple[int, int]]:
        """Where this process's partition holds what it has to count in the norm, neighbours joined: begin and end.

        Each parameter is counted once among the processes that hold all or a copy of it.
        """
        zero, weights = self._zero, self._zero.bit16_groups_flat[group]
        size, rank = zero.partition_size[group], dist.get_rank(zero.real_dp_process_group[group])
        begin = end = 0
        for parameter in zero.params_in_partition[group]:
            replicated = getattr(parameter, "ds_pipe_replicated", False)
            if replicated or not (is_model_parallel_parameter(parameter) or zero.model_parallel_rank == 0):
                continue
            start = _start(parameter, weights) - rank * size
            first, last = max(start, 0), min(start + parameter.numel(), size)
            if first != end:
                yield begin, end
                begin = first
            end = last
        yield begin, end

    def _clear(self, set_to_none: bool = False) -> None:
        """Zero the buffers and hang their views on the parameters: DeepSpeed's step takes every ``grad`` away."""
        for buffer in self._buffers:
            buffer.zero_()
        for view, parameter in self._views:
            parameter.grad = view if view.dtype == parameter.dtype else None

    def _reduce(self, pipeline_parallel: bool = False) -> None:
        """Average the gradients over the data-parallel processes, each getting its partition, and offer them."""
        for group, buffer in enumerate(self._buffers):
            if self._replicated_over is not None:
                dist.all_reduce(buffer, group=self._replicated_over)
                buffer /= dist.get_world_size(self._replicated_over)
            process_group = self._zero.real_dp_process_group[group]
            size, rank = self._zero.partition_size[group], dist.get_rank(process_group)
            partition = buffer.narrow(0, rank * size, size)
            if (processes := dist.get_world_size(process_group)) > 1:
                dist.reduce_scatter_tensor(partition, buffer, group=process_group)
                partition /= processes
            self._zero.averaged_gradients[group] = _Partition(partition)

    def _norm(self, norm_type: int = 2) -> torch.Tensor:
        """Norm of the averaged gradients over all processes; -1, as DeepSpeed has it, where it is not finite.

        DeepSpeed's own makes a copy of every gradient in fp64.
        """
        assert norm_type == 2
        zero = self._zero
        total = torch.zeros((), dtype=torch.float64, device=zero.device)
        for group, spans in enumerate(self._counted):
            partition = zero.averaged_gradients[group].flat_partition
            for begin, end in spans:
                total += _sum_of_squares(partition[begin:end])
        dist.all_reduce(total, group=zero.dp_process_group)
        zero._model_parallel_all_reduce(total, op=dist.ReduceOp.SUM)
        norm = total.sqrt().float()
        return torch.where(norm.isfinite(), norm, -1.0)

    def _scale_in_the_update(self, gradients: Sequence[torch.Tensor], norm: torch.Tensor) -> None:
        """Leave it to the optimizer to divide by the loss scale, and by what clips ``norm``."""
        zero = self._zero
        scale = float(zero.loss_scale)
        if zero.clip_grad > 0:
            scale *= max((float(norm) / scale + _TINY) / zero.clip_grad, 1.0)
        zero.optimizer.grad_scale = None if scale == 1 else torch.tensor(scale, device=zero.device)


class _Partition(list[torch.Tensor]):
    """A process's averaged gradients of a group. DeepSpeed has a list of pieces here and flattens it, unless it finds
    this attribute; nobody asks for the pieces."""

    def __init__(self, flat_partition: torch.Tensor) -> None:
        super().__init__()
        self.flat_partition = flat_partition


def _add_to_main_grad(parameter: Any) -> None:
    if parameter.grad is not None:  # or the layer has added it there itself
        parameter.main_grad.add_(parameter.grad)
        parameter.grad = None


def _start(parameter: torch.Tensor, weights: torch.Tensor) -> int:
    """Where ``parameter`` lies in its group's flat ``weights``, of which it is a view."""
    return int(parameter.data.storage_offset() - weights.storage_offset())


def _sum_of_squares(values: torch.Tensor) -> torch.Tensor:
    """In fp64, exact to fp32's precision however many ``values`` there are; without a copy of them."""
    even = len(values) // _ROW * _ROW
    rows = torch.linalg.vector_norm(values[:even].view(-1, _ROW), dim=1, dtype=torch.float32)
    rest = torch.linalg.vector_norm(values[even:], dtype=torch.float32)
    total: torch.Tensor = rows.double().square().sum() + rest.double().square()
    return total
