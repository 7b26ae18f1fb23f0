"""Training step and validation step, the same under every layout.

A training step is two calls, so that the loop can check the loss and the gradient before the optimizer moves: first
:meth:`Stepper.accumulate`, then :meth:`Stepper.update` or :meth:`Stepper.discard`. On a GPU the host waits for the
device once per step, at the end of :meth:`Stepper.accumulate`.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func

from pause_megatron.config.parallel import Layout
from pause_megatron.data.batches import Batch, Microbatch
from pause_megatron.engine import Engine
from pause_megatron.engine.updater import Update
from pause_megatron.model.gpt import LocalModel
from pause_megatron.process_memory import keep_freed_memory
from pause_megatron.training.loss import count_losses, masked_loss
from pause_megatron.training.step_report import Flags, StepReport, share_report

_NO_FLAGS = Flags()


class Stepper:
    """Runs the steps of one model on this rank."""

    def __init__(self, model: LocalModel, engine: Engine, layout: Layout, device: torch.device) -> None:
        self.model = model
        self.engine = engine
        self.layout = layout
        self.device = device
        self.grad_norm = 0.0
        """Global norm of the accumulated gradient of the mean loss, before clipping; may not be finite."""
        self._targets_per_token = 1.0
        self._forward_backward = get_forward_backward_func()
        if device.type == "cpu":
            keep_freed_memory()  # each step allocates what the one before has freed

    def accumulate(self, batch: Batch, flags: Flags = _NO_FLAGS) -> StepReport:
        """Run forward and backward on this rank's part ``batch`` of a global batch; no weight changes.

        ``flags`` are shared with all ranks. Sets :attr:`grad_norm`.
        """
        losses = self._run(batch, forward_only=False)
        report = share_report(losses, self.engine.updater.complete(), flags, self.device)
        # The loss was divided by the tokens. A batch may have no valid target: avoid 0 / 0.
        self._targets_per_token = max(report.losses.targets, 1) / (batch.tokens.numel() * self.layout.dp)
        self.grad_norm = math.sqrt(report.squared_norm) / (self.engine.updater.multiple * self._targets_per_token)
        return report

    def update(self, learning_rate: float) -> Update:
        """Clip the accumulated gradients, and update the weights if the gradients are finite."""
        return self.engine.updater.update(
            learning_rate, grad_norm=self.grad_norm, targets_per_token=self._targets_per_token
        )

    def discard(self) -> None:
        """Drop the accumulated gradients."""
        self.engine.updater.discard()

    @torch.no_grad()
    def validate(self, batch: Batch, flags: Flags = _NO_FLAGS) -> StepReport:
        """Run forward on this rank's part ``batch`` of a global batch."""
        with self.engine.evaluating():
            losses = self._run(batch, forward_only=True)
        return share_report(losses, None, flags, self.device)

    def _run(self, batch: Batch, *, forward_only: bool) -> torch.Tensor | None:
        """Run the schedule; return the losses that this rank must report, see :func:`count_losses`."""
        iterators = [iter(batch) for _ in self.model.chunks]  # each chunk of a stage reads all microbatches
        num_microbatches, micro_batch_size, seq_length = batch.tokens.shape
        token_losses = self._forward_backward(
            forward_step_func=self._forward_step,
            data_iterator=iterators if self.layout.vp > 1 else iterators[0],
            model=self.model.chunks,
            num_microbatches=num_microbatches,
            seq_length=seq_length,
            micro_batch_size=micro_batch_size,
            forward_only=forward_only,
        )
        # Tensor-parallel ranks compute the same losses, and only the last stage computes any.
        reports = parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0
        return count_losses(torch.stack(token_losses), batch) if reports else None

    def _forward_step(self, iterator: Iterator[Microbatch], chunk: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        batch = next(iterator)
        output = self.engine.callable(chunk)(batch.tokens, batch.position_ids, None, labels=batch.labels)
        return output, partial(masked_loss, loss_weights=batch.loss_weights)
