"""Schedules over iterations: the learning rate, and the batch size of a ramp-up."""

import math
from bisect import bisect_right

from pause_megatron.config.training import OptimizerConfig, TrainingConfig


def learning_rate(iteration: int, train_iters: int, optimizer: OptimizerConfig) -> float:
    """The learning rate of the optimizer step ``iteration`` (0-based) of ``train_iters``."""
    warmup = round(optimizer.warmup_fraction * train_iters)
    if iteration < warmup:
        return optimizer.learning_rate * (iteration + 1) / warmup
    lowest = optimizer.learning_rate * optimizer.min_learning_rate_fraction
    return lowest + (optimizer.learning_rate - lowest) * _decay_multiplier(iteration, warmup, train_iters, optimizer)


def _decay_multiplier(iteration: int, warmup: int, train_iters: int, optimizer: OptimizerConfig) -> float:
    """Decay multiplier: 1 at the peak, 0 at the minimum learning rate."""
    start = warmup
    if optimizer.schedule == "wsd":
        start = max(warmup, train_iters - round(optimizer.decay_fraction * train_iters))
    progress = min(max((iteration - start) / max(train_iters - start, 1), 0.0), 1.0)
    match optimizer.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return 1 - progress
        case "wsd":  # best of the shapes in Hägele et al. 2024 (arXiv 2405.18392)
            return 1 - math.sqrt(progress)
        case "constant":
            return 1.0


class BatchSchedule:
    """Batch size and consumed samples of every step; both depend only on the iteration.

    A ramp-up follows Megatron-LM: its ``SAMPLES`` are divided equally among the sizes below the final one. For
    example, ``--rampup-batch-size 2 2 12`` with a final size of 6 takes 3 steps of 2 sequences, 2 steps of 4, and then
    steps of 6.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self._sizes = training.batch_sizes()
        samples = training.rampup_batch_size[2] / (len(self._sizes) - 1) if training.rampup_batch_size else 0.0
        self._iterations, self._consumed = [0], [0]  # first iteration of each size, and the samples before it
        for number, size in enumerate(self._sizes[:-1], start=1):
            steps = max(math.ceil((number * samples - self._consumed[-1]) / size), 0)
            self._iterations.append(self._iterations[-1] + steps)
            self._consumed.append(self._consumed[-1] + steps * size)

    def batch_size(self, iteration: int) -> int:
        """Sequences in step ``iteration`` (0-based)."""
        return self._sizes[bisect_right(self._iterations, iteration) - 1]

    def consumed_samples(self, iteration: int) -> int:
        """Sequences in all steps before ``iteration``."""
        segment = bisect_right(self._iterations, iteration) - 1
        return self._consumed[segment] + (iteration - self._iterations[segment]) * self._sizes[segment]
