"""In-place gradients of ZeRO-0 and ZeRO-1: one flat buffer for each parameter group.

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


class FlatGradients:
    """Accumulated gradients of all parameters of this rank, in buffers of the layout of ``zero``'s weights."""

    def __init__(self, zero: DeepSpeedZeroOptimizer, dtype: torch.dtype) -> None:
        """Give every parameter of ``zero`` a view as its gradient, and remove DeepSpeed's hooks.

        Args:
            zero: a stage-1 optimizer.
            dtype: dtype in which gradients are accumulated and reduced.
        """
        assert isinstance(zero, DeepSpeedZeroOptimizer)
        assert not any((zero.partition_gradients, zero.use_grad_accum_attribute))
        self._zero = zero
        self.buffers = [torch.zeros_like(weights, dtype=dtype) for weights in zero.bit16_groups_flat]
        self.partitions = [self._own_partition(group) for group in range(len(self.buffers))]
        self._counted = [list(self._counted_ranges(group)) for group in range(len(self.buffers))]
        for hook in zero._grad_acc_hooks:  # DeepSpeed's hooks would allocate its buckets
            hook.remove()
        for buffer, weights, parameters in zip(self.buffers, zero.bit16_groups_flat, zero.bit16_groups, strict=True):
            for parameter in parameters:
                view = _unrelated(buffer.narrow(0, _start(parameter, weights), parameter.numel()).view_as(parameter))
                parameter.main_grad = view  # Megatron-core's name for it
                parameter.grad = view if dtype == parameter.dtype else None
                if dtype != parameter.dtype:
                    parameter.register_post_accumulate_grad_hook(_add_to_main_grad)

    def _own_partition(self, group: int) -> torch.Tensor:
        size, rank = self._zero.partition_size[group], dist.get_rank(self._zero.real_dp_process_group[group])
        return self.buffers[group].narrow(0, rank * size, size)  # [N / D], a view

    def _counted_ranges(self, group: int) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) ranges of this rank's partition that count toward the norm; adjacent ranges are merged.

        A parameter that several ranks hold, such as a norm under tensor parallelism, counts on one of them only.
        """
        zero, weights = self._zero, self._zero.bit16_groups_flat[group]
        size, rank = zero.partition_size[group], dist.get_rank(zero.real_dp_process_group[group])
        begin = end = 0
        for parameter in zero.params_in_partition[group]:
            if not is_counted(zero, parameter):
                continue
            # From positions in the buffer [N] to positions in the partition [N / D], cut at both of its ends.
            start = _start(parameter, weights) - rank * size
            first, last = max(start, 0), min(start + parameter.numel(), size)
            if first != end:
                yield begin, end
                begin = first
            end = last
        yield begin, end

    def span(self, parameters: Sequence[Any]) -> torch.Tensor:
        """Return the part of a buffer, flat, that holds the gradients of ``parameters``, which must be neighbours."""
        views = [parameter.main_grad for parameter in parameters]
        first, length = min(view.data_ptr() for view in views), sum(view.numel() for view in views)
        [(buffer, start)] = (
            (buffer, (first - buffer.data_ptr()) // buffer.element_size())
            for buffer in self.buffers
            if 0 <= first - buffer.data_ptr() < buffer.nbytes
        )
        assert max(view.data_ptr() + view.nbytes for view in views) == first + length * buffer.element_size()
        return buffer.narrow(0, start, length)

    def squared_norm(self) -> torch.Tensor:
        """Sum of the squares of this rank's partitions, counting each parameter on one model-parallel rank only; fp64
        scalar."""
        return sum_of_squares(
            *(
                partition[begin:end]
                for partition, ranges in zip(self.partitions, self._counted, strict=True)
                for begin, end in ranges
            )
        )

    def clear(self) -> None:
        """Set all gradients to zero."""
        for buffer in self.buffers:  # one kernel each; those for lists of tensors have a limited size
            buffer.zero_()


def is_counted(zero: Any, parameter: Any) -> bool:
    """Return whether this model-parallel rank counts ``parameter`` in the gradient norm."""
    if getattr(parameter, "ds_pipe_replicated", False):
        return False
    return bool(is_model_parallel_parameter(parameter) or zero.model_parallel_rank == 0)


def sum_of_squares(*parts: torch.Tensor) -> torch.Tensor:
    """Sum of the squares of flat tensors, fp64 scalar, exact to fp32 precision and without a copy of them.

    DeepSpeed's norm copies every gradient to fp64.
    """
    norms = []
    for values in parts:
        even = len(values) // _ROW_LENGTH * _ROW_LENGTH
        # [even] -> [rows, 4096] -> [rows]; an fp32 sum over all elements would lose small values next to a large total.
        if even:
            norms.append(torch.linalg.vector_norm(values[:even].view(-1, _ROW_LENGTH), dim=1, dtype=torch.float32))
        if even < len(values):
            norms.append(torch.linalg.vector_norm(values[even:], dtype=torch.float32)[None])
    if not norms:
        return torch.zeros((), dtype=torch.float64, device=parts[0].device)
    total: torch.Tensor = torch.cat(norms).double().square().sum()
    return total


def _unrelated(view: torch.Tensor) -> torch.Tensor:
    """Return a tensor with the memory of ``view`` that starts at offset 0 and has no base.

    ``torch.compile`` distinguishes views by their offsets, and would compile a layer again for others.
    """
    return torch.from_dlpack(view)


def _add_to_main_grad(parameter: Any) -> None:
    if parameter.grad is not None:  # None if the layer has added it to main_grad itself
        parameter.main_grad.add_(parameter.grad)
        parameter.grad = None


def _start(parameter: torch.Tensor, weights: torch.Tensor) -> int:
    """Offset of ``parameter`` in its group's flat ``weights`` [N], which it is a view of."""
    return int(parameter.data.storage_offset() - weights.storage_offset())
