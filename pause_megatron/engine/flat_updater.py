"""Updater of ZeRO-0 and ZeRO-1, also with an offloaded optimizer: replaces DeepSpeed's step.

Gradients are reduced behind the last backward pass, weights are gathered behind the next forward pass, and the host
waits for the device nowhere. The fused optimizer divides by the loss scale, the number of ranks and the clipping factor
while it reads the gradients.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist

from pause_megatron.engine import shared_gradients
from pause_megatron.engine.bucket_reduction import BucketReduction
from pause_megatron.engine.flat_gradients import FlatGradients
from pause_megatron.engine.updater import Updater
from pause_megatron.engine.weight_gathering import WeightGathering
from pause_megatron.model.gpt import LocalModel


class FlatUpdater(Updater):
    """Updates all weights in one call of the optimizer."""

    def __init__(
        self, zero: Any, model: LocalModel, dtype: torch.dtype, *, replicated_over: dist.ProcessGroup | None = None
    ) -> None:
        """Take over the gradients of ``zero``.

        Args:
            zero: a stage-1 optimizer around a fused AdamW.
            model: the model of ``zero``.
            dtype: dtype in which gradients are accumulated and reduced.
            replicated_over: for ZeRO-0, where ``zero`` partitions over one rank: the data-parallel group to reduce the
                gradients over.
        """
        super().__init__(zero)
        assert zero.optimizer.defaults["fused"]
        self._gradients = FlatGradients(zero, dtype)
        norms = shared_gradients.partial_parameters(model.parameters)
        embeddings = shared_gradients.tied_embeddings(model.parameters)
        self._norms = self._gradients.span(norms) if norms else None
        self._embeddings = [parameter.main_grad for parameter in embeddings]
        is_shared = {id(parameter) for parameter in (*norms, *embeddings)}
        self._reduction = BucketReduction(
            self._gradients.buffers,
            self._gradients.partitions,
            zero.bit16_groups,
            replicated_over or zero.dp_process_group,
            late={
                bucket
                for bucket, parameters in enumerate(zero.bit16_groups)
                if any(id(parameter) in is_shared for parameter in parameters)
            },
        )
        self._is_replica = replicated_over is not None and dist.get_rank(replicated_over) > 0
        self._weights = WeightGathering(zero, model.chunks)
        _merge_groups(zero.optimizer)
        if zero.cpu_offload:
            zero.temp_grad_buffer_for_gpu_offload = zero.temp_grad_buffer_for_cpu_offload = None

    @property
    def multiple(self) -> float:
        """The reduction sums over the ranks instead of averaging, which would take another pass."""
        return super().multiple * self._reduction.ranks

    def accumulating(self) -> AbstractContextManager[None]:
        """In the block no bucket is reduced."""
        return self._reduction.accumulating()

    def complete(self) -> torch.Tensor:
        """Reduce what is not reduced yet, and return this rank's summand of the squared norm."""
        self._reduction.start_all()
        shared_gradients.reduce_shared_gradients(self._norms, self._embeddings)
        self._reduction.finish()
        if self._zero.cpu_offload:  # the host must wait for the norm before it reads these
            for master, partition in zip(self._masters, self._gradients.partitions, strict=True):
                master.grad.copy_(partition, non_blocking=True)
        squares = self._gradients.squared_norm()
        return torch.zeros_like(squares) if self._is_replica else squares  # under ZeRO-0 all ranks have the same

    def discard(self) -> None:
        """Zero the gradients."""
        self._gradients.clear()

    def publish_weights(self) -> None:
        """Copy the master weights to the model's own; layers wait for them when they are called."""
        self._weights.publish()

    def wait(self) -> None:
        """Wait until all weights are gathered."""
        self._weights.wait()

    @property
    def _masters(self) -> Sequence[Any]:
        masters: Sequence[Any] = self._zero.single_partition_of_fp32_groups  # [N / D] of each bucket
        return masters

    def _apply(self, learning_rate: float, divisor: float) -> None:
        zero, optimizer = self._zero, self._zero.optimizer
        zero._update_scale(False)
        optimizer.grad_scale = torch.full((), divisor, device=zero.device)  # a kernel's argument, not a copy
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if zero.cpu_offload:
            optimizer.step()
        else:
            for master, partition in zip(self._masters, self._gradients.partitions, strict=True):
                master.grad = partition.to(master.dtype)
            optimizer.step()
            for master in self._masters:
                master.grad = None
        self._weights.publish()
        self._gradients.clear()

    def _skip(self) -> None:
        self._gradients.clear()
        self._zero._update_scale(True)


def _merge_groups(optimizer: torch.optim.Optimizer) -> None:
    """Join the groups of equal weight decay, so that one kernel updates all their buckets."""
    merged: dict[float, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        if group["weight_decay"] in merged:
            merged[group["weight_decay"]]["params"].extend(group["params"])
        else:
            merged[group["weight_decay"]] = group
    optimizer.param_groups = list(merged.values())
