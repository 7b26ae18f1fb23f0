"""The learning rate as a function of the iteration: linear warm-up, then cosine decay."""

from __future__ import annotations

import math

from pause_megatron.config.training import OptimizerConfig


def learning_rate(iteration: int, train_iters: int, optimizer: OptimizerConfig) -> float:
    """The learning rate of the optimizer step ``iteration`` (0-based) of ``train_iters``."""
    warmup = round(optimizer.warmup_fraction * train_iters)
    if iteration < warmup:
        return optimizer.learning_rate * (iteration + 1) / warmup
    progress = (iteration - warmup) / max(train_iters - warmup, 1)
    lowest = optimizer.learning_rate * optimizer.min_learning_rate_fraction
    return lowest + (optimizer.learning_rate - lowest) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
