"""What happened since the last training record."""

from __future__ import annotations

from dataclasses import dataclass, field

from pause_megatron.engine.update import Update
from pause_megatron.training.loss import Losses


@dataclass(kw_only=True)
class Interval:
    """The steps since the last record; equal on every process."""

    losses: Losses = field(default_factory=Losses)
    """Of all steps but those whose batch was dropped."""
    last_loss: float = 0.0
    """Mean loss of the last of them, nats."""
    steps: int = 0
    """All steps."""
    skipped_steps: int = 0
    """Steps that changed no weight: their batch was dropped, or its gradients were not finite."""
    sequences: int = 0
    """Sequences of all steps."""
    batch_size: int = 0
    """Sequences of the last step."""
    grad_norm: float | None = None
    """Global gradient norm of the last step that changed weights, before clipping."""
    loss_scale: float = 1.0
    """Of the last step whose batch was not dropped."""

    def add(self, losses: Losses, update: Update | None, batch_size: int) -> None:
        """Add a step; ``update`` is None when its batch was dropped."""
        self.steps += 1
        self.sequences += batch_size
        self.batch_size = batch_size
        if update is None or not update.applied:
            self.skipped_steps += 1
        else:
            self.grad_norm = update.grad_norm
        if update is not None:
            self.losses += losses
            self.last_loss = losses.mean
            self.loss_scale = update.loss_scale
