"""One training step and one validation pass, the same under every layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import deepspeed
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from pause_megatron.config.parallel import Layout
from pause_megatron.data.batches import Microbatch
from pause_megatron.errors import UserError
from pause_megatron.model.gpt import LocalModel
from pause_megatron.training.engine import set_learning_rate
from pause_megatron.training.gradients import reduce_shared_gradients
from pause_megatron.training.loss import count_targets, masked_loss, reduce_loss_sum


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a training step found; equal on every process."""

    loss: float
    """Mean cross-entropy of the global batch's valid targets, nats."""
    grad_norm: float
    """Global gradient norm before clipping."""
    valid_targets: int
    """Targets that carried loss."""
    pauses: int
    """Pauses among the tokens."""


class Stepper:
    """Runs steps of one model on this process."""

    def __init__(
        self, model: LocalModel, engine: deepspeed.DeepSpeedEngine, layout: Layout, device: torch.device
    ) -> None:
        self.model = model
        self.engine = engine
        self.layout = layout
        self.device = device
        self._forward_backward = get_forward_backward_func()

    def train(self, microbatches: Sequence[Microbatch], learning_rate: float) -> StepResult:
        """Forward, backward and update on this process's ``microbatches`` of one global batch.

        Raises :class:`UserError` before the optimizer moves when the loss is not finite.
        """
        valid_targets, pauses = count_targets(microbatches)
        loss = self._run(microbatches, valid_targets, forward_only=False) / valid_targets
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at iteration {self.engine.global_steps + 1}; no weight was changed by it."
                " Continue from the last checkpoint with a lower --learning-rate"
            )
        reduce_shared_gradients(self.model.parameters)
        set_learning_rate(self.engine, learning_rate)
        self.engine.step()
        return StepResult(
            loss=loss,
            grad_norm=float(self.engine.get_global_grad_norm()),
            valid_targets=valid_targets,
            pauses=pauses,
        )

    @torch.no_grad()
    def validate(self, microbatches: Sequence[Microbatch]) -> tuple[float, int]:
        """The summed loss (nats) and the number of valid targets of one global batch, without gradients."""
        self.engine.eval()
        valid_targets, _ = count_targets(microbatches)
        loss_sum = self._run(microbatches, valid_targets, forward_only=True)
        self.engine.train()
        return loss_sum, valid_targets

    def _run(self, microbatches: Sequence[Microbatch], valid_targets: int, *, forward_only: bool) -> float:
        """Run Megatron-core's schedule; returns the summed loss of the global batch."""
        factor = len(microbatches) * self.layout.dp / valid_targets
        iterators = [iter(microbatches) for _ in self.model.chunks]
        micro_batch_size, seq_length = microbatches[0].tokens.shape
        reported = self._forward_backward(
            forward_step_func=partial(self._forward_step, factor=factor),
            data_iterator=iterators if self.layout.vp > 1 else iterators[0],
            model=self.model.chunks,
            num_microbatches=len(microbatches),
            seq_length=seq_length,
            micro_batch_size=micro_batch_size,
            forward_only=forward_only,
        )
        return reduce_loss_sum(reported, self.device)

    def _forward_step(
        self, iterator: Iterator[Microbatch], chunk: torch.nn.Module, *, factor: float
    ) -> tuple[torch.Tensor, Any]:
        batch = next(iterator)
        # ZeRO-2 and -3 hang their hooks on the engine's forward; with one chunk it is the chunk's.
        model = self.engine if self.engine.zero_optimization_stage() >= 2 else chunk
        output = model(batch.tokens, batch.position_ids, None, labels=batch.labels)
        return output, partial(masked_loss, loss_mask=batch.loss_mask, factor=factor)
