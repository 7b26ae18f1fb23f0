"""What changes with the iteration: the learning rate, and under a batch ramp-up the batch size."""

from __future__ import annotations

import math
from bisect import bisect_right

from pause_megatron.config.training import OptimizerConfig, TrainingConfig


def learning_rate(iteration: int, train_iters: int, optimizer: OptimizerConfig) -> float:
    """The learning rate of the optimizer step ``iteration`` (0-based) of ``train_iters``."""
    warmup = round(optimizer.warmup_fraction * train_iters)
    if iteration < warmup:
        return optimizer.learning_rate * (iteration + 1) / warmup
    lowest = optimizer.learning_rate * optimizer.min_learning_rate_fraction
    return lowest + (optimizer.learning_rate - lowest) * _height(iteration, warmup, train_iters, optimizer)


def _height(iteration: int, warmup: int, train_iters: int, optimizer: OptimizerConfig) -> float:
    """What is left of the way from the lowest learning rate to the peak, 1 to 0."""
    start = warmup
    if optimizer.schedule == "wsd":
        start = max(warmup, train_iters - round(optimizer.decay_fraction * train_iters))
    progress = min(max((iteration - start) / max(train_iters - start, 1), 0.0), 1.0)
    match optimizer.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return 1 - progress
        case "wsd":  # of the shapes compared by Hägele et al. 2024 (arXiv 2405.18392) the best
            return 1 - math.sqrt(progress)
        case "constant":
            return 1.0


class BatchSchedule:
    """Sequences of every step, and how many came before; a function of the iteration alone.

    Under a ramp-up the size of a step follows from the sequences consumed before it, as in Megatron-LM: ``SAMPLES`` are
    divided equally among the sizes below the final one.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self._sizes = training.batch_sizes()
        samples = training.rampup_batch_size[2] / (len(self._sizes) - 1) if training.rampup_batch_size else 0.0
        self._iterations, self._consumed = [0], [0]  # where each size begins
        for number, size in enumerate(self._sizes[:-1], start=1):
            steps = max(math.ceil((number * samples - self._consumed[-1]) / size), 0)
            self._iterations.append(self._iterations[-1] + steps)
            self._consumed.append(self._consumed[-1] + steps * size)

    def batch_size(self, iteration: int) -> int:
        """Sequences of step ``iteration`` (0-based)."""
        return self._sizes[bisect_right(self._iterations, iteration) - 1]

    def consumed_samples(self, iteration: int) -> int:
        """Sequences of all steps before ``iteration``."""
        segment = bisect_right(self._iterations, iteration) - 1
        return self._consumed[segment] + (iteration - self._iterations[segment]) * self._sizes[segment]
