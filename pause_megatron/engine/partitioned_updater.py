"""Updater of ZeRO-2 and ZeRO-3: DeepSpeed's step without its waits of the host for the GPU.

DeepSpeed reduces and releases gradients during the backward passes, and its step updates the partitions. Left alone,
that step computes norms and looks for infinities with one wait of the host each, and with several for each parameter
under offloading. Here the norm is known before the step, which therefore computes none.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from deepspeed import DeepSpeedEngine

from pause_megatron.engine.flat_gradients import is_counted, sum_of_squares
from pause_megatron.engine.updater import Updater
from pause_megatron.parallel.process_device import device


class PartitionedUpdater(Updater):
    """Completes and applies the gradients of a ZeRO-2 or ZeRO-3 engine."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        super().__init__(engine.optimizer)
        zero = self._zero
        self._engine = engine
        self._is_stage_3 = engine.zero_optimization_partition_weights()
        self._masters = zero.fp32_partitioned_groups_flat if self._is_stage_3 else zero.single_partition_of_fp32_groups
        self._offloads = zero.offload_optimizer if self._is_stage_3 else zero.cpu_offload
        self._known_norm = 1.0
        self._finalize = zero.finalize_gradient_accumulation_boundary
        zero.finalize_gradient_accumulation_boundary = lambda: None  # done by complete()
        zero.check_overflow = lambda **_: None  # the norm is not finite if a gradient is not
        zero.scaled_global_norm = lambda **_: self._known_norm
        zero._get_norm_groups = lambda: [self._known_norm]
        zero.unscale_and_clip_grads = lambda *_: None  # the fused optimizer does both while it reads the gradients
        if device().type == "cuda":
            self._order_streams_without_the_host()

    def _order_streams_without_the_host(self) -> None:
        """Let the current stream wait where DeepSpeed lets the host wait; complete() is followed by a wait anyway."""
        zero = self._zero
        if self._is_stage_3:
            zero.reduce_and_partition_stream = _OrderedStream()
            if self._offloads and zero.offload_optimizer_pin_memory:
                zero._reassign_or_swap_out_partitioned_parameters = _PinnedPublication(zero)
        elif self._offloads and zero.cpu_offload_pin_memory:
            zero.update_offload_overflow_tracker = lambda _: None
            zero._wait_for_offload_copies = self._order_offload_copies

    def _order_offload_copies(self) -> None:
        for event in self._zero._pending_offload_events.values():
            torch.cuda.current_stream().wait_event(event)
        self._zero._pending_offload_events.clear()

    def complete(self) -> torch.Tensor:
        """Finish DeepSpeed's accumulation, and return this rank's summand of the squared norm."""
        self._finalize()
        if self._offloads:
            norms = list(self._counted_norms())
            if not norms:
                return torch.zeros((), dtype=torch.float64)
            return torch.stack(norms).double().square().sum()
        return sum_of_squares(*self._counted_gradients())

    def _counted_gradients(self) -> Iterator[torch.Tensor]:
        """Yield the pieces of this rank's partition that count toward the norm, flat."""
        zero = self._zero
        for group, parameters in enumerate(zero.fp16_groups if self._is_stage_3 else zero.params_in_partition):
            pieces = [piece for piece in zero.averaged_gradients[group] if not getattr(piece, "_zero_padding", False)]
            for parameter, piece in zip(parameters, pieces, strict=False):
                if is_counted(zero, parameter):
                    yield piece.flatten()

    def _counted_norms(self) -> Iterator[torch.Tensor]:
        """Yield the norms of these pieces, which DeepSpeed computes when it offloads them."""
        zero = self._zero
        for parameters in zero.fp16_groups if self._is_stage_3 else zero.params_in_partition:
            for parameter in parameters:
                norm = zero.norm_for_param_grads.get(zero.get_param_id(parameter))
                if norm is not None and is_counted(zero, parameter):
                    yield norm

    def discard(self) -> None:
        """Drop the gradients; under fp16 this lowers the loss scale too."""
        self._skip()

    def publish_weights(self) -> None:
        """Copy the master weights to the model's own, and wait for them."""
        zero = self._zero
        if not self._is_stage_3:
            zero.update_lp_params()
            return
        zero._partition_all_parameters()  # release gathered parameters: they hold the old values
        for index in range(len(self._masters)):
            zero._reassign_or_swap_out_partitioned_parameters(index)

    def wait(self) -> None:
        """Return at once: DeepSpeed's step waits."""

    def _apply(self, learning_rate: float, divisor: float) -> None:
        optimizer = self._zero.optimizer
        optimizer.grad_scale = torch.full((), divisor, device=self._masters[0].device)  # an argument, not a copy
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        self._step(norm=1.0)

    def _skip(self) -> None:
        # The gradients are in several buffers. DeepSpeed's step clears all of them if the norm is not finite.
        self._step(norm=math.inf)

    def _step(self, *, norm: float) -> None:
        self._known_norm = norm
        self._engine.step()
        assert self._engine.was_step_applied() == math.isfinite(norm)


class _PinnedPublication:
    """Copies ZeRO-3's offloaded master weights to the GPU through pinned memory; DeepSpeed's copies stop the host."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero
        self._by_deepspeed = zero._reassign_or_swap_out_partitioned_parameters
        self._staging: dict[int, torch.Tensor] = {}  # by group, in the model's precision
        self._copied: dict[int, torch.cuda.Event] = {}  # by group: its staging may be written again

    def __call__(self, group: int) -> None:
        own, master = self._zero.fp16_partitioned_groups_flat[group], self._zero.fp32_partitioned_groups_flat[group]
        if own is None or not own.is_cuda or master.is_cuda:
            self._by_deepspeed(group)
            return
        if group not in self._staging:
            self._staging[group] = torch.empty(own.shape, dtype=own.dtype, pin_memory=True)
            self._copied[group] = torch.cuda.Event()
        elif not self._copied[group].query():  # in training the host has waited since the last copy
            self._copied[group].synchronize()
        self._staging[group].copy_(master.data)
        own.data.copy_(self._staging[group], non_blocking=True)
        self._copied[group].record()
        self._zero._unflatten_partitioned_parameters(group)


class _OrderedStream(torch.cuda.Stream):
    """Stream of ZeRO-3's reductions. Later work of the current stream waits for it; the host does not."""

    def synchronize(self) -> None:
        torch.cuda.current_stream().wait_stream(self)
