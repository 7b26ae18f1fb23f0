"""Training step and validation step, the same under every layout.

A training step is two calls, so that the loop can check the loss before the optimizer moves: first
:meth:`Stepper.accumulate`, then :meth:`Stepper.update` or :meth:`Stepper.discard`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from pause_megatron.config.parallel import Layout
from pause_megatron.data.batches import Microbatch
from pause_megatron.engine import DeepSpeedEngine
from pause_megatron.engine.update import Update, apply_gradients, discard_gradients
from pause_megatron.model.gpt import LocalModel
from pause_megatron.training.loss import Losses, count_targets, masked_loss, reduce_losses


class Stepper:
    """Runs the steps of one model on this rank."""

    def __init__(self, model: LocalModel, engine: DeepSpeedEngine, layout: Layout, device: torch.device) -> None:
        self.model = model
        self.engine = engine
        self.layout = layout
        self.device = device
        self._forward_backward = get_forward_backward_func()

    def accumulate(self, microbatches: Sequence[Microbatch]) -> Losses:
        """Run forward and backward on this rank's ``microbatches`` of one global batch; no weight changes."""
        return self._run(microbatches, forward_only=False)

    def update(self, learning_rate: float) -> Update:
        """Reduce and clip the accumulated gradients, and update the weights if they are finite."""
        return apply_gradients(self.engine, self.model.parameters, learning_rate)

    def discard(self) -> None:
        """Drop the accumulated gradients."""
        discard_gradients(self.engine)

    @torch.no_grad()
    def validate(self, microbatches: Sequence[Microbatch]) -> Losses:
        """Run forward on this rank's ``microbatches`` of one global batch."""
        self.engine.eval()
        losses = self._run(microbatches, forward_only=True)
        self.engine.train()
        return losses

    def _run(self, microbatches: Sequence[Microbatch], *, forward_only: bool) -> Losses:
        counted = count_targets(microbatches)
        # Megatron-core divides each microbatch's loss by len(microbatches), DeepSpeed the gradients by DP; undo both,
        # and divide by the valid targets of the global batch. It may have none: avoid 0 / 0.
        factor = len(microbatches) * self.layout.dp / max(counted.targets, 1)
        iterators = [iter(microbatches) for _ in self.model.chunks]  # each chunk of a stage reads all microbatches
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
        return reduce_losses(reported, counted, self.device)

    def _forward_step(
        self, iterator: Iterator[Microbatch], chunk: torch.nn.Module, *, factor: float
    ) -> tuple[torch.Tensor, Any]:
        batch = next(iterator)
        # ZeRO-2 and ZeRO-3 need the hooks of the engine's forward. They have one chunk, which the engine wraps.
        model = self.engine if self.engine.zero_optimization_partition_gradients() else chunk
        output = model(batch.tokens, batch.position_ids, None, labels=batch.labels)
        return output, partial(masked_loss, loss_mask=batch.loss_mask, pause_runs=batch.pause_runs, factor=factor)
