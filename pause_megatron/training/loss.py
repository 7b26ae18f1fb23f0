"""Loss of a step: the mean over the valid targets of the global batch.

Every target must have the same weight, but microbatches and ranks have different numbers of valid targets. How many the
global batch has is known only when all ranks have met, which they do once per step, after the backward pass. Until then
the loss is divided by the number of *tokens*, which is the same on every rank. The update divides the gradients by the
rest, ``targets / tokens`` (:meth:`~pause_megatron.training.step.Stepper.accumulate`). For example, with 1024 tokens and
922 valid targets the accumulated gradients are 922/1024 times those of the mean loss.

Losses and counts are grouped by the run of pauses before the target, because the first effect of pause-training is a
lower loss after a pause than after a real token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pause_megatron.data.batches import Batch

LONGEST_RUN = 8
"""Longest run of pauses with a group of its own; longer runs are counted with it."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses over real targets, grouped by the pauses directly before them.

    Item ``k`` of each tuple belongs to targets after exactly ``k`` pauses: 0 after a real token, :data:`LONGEST_RUN`
    for that many and more.
    """

    sums: tuple[float, ...] = (0.0,) * (LONGEST_RUN + 1)
    """Summed cross-entropies, nats."""
    counts: tuple[int, ...] = (0,) * (LONGEST_RUN + 1)
    """Numbers of targets."""
    pauses: int = 0
    """Pauses among the input tokens."""

    def __add__(self, other: Losses) -> Losses:
        return Losses(
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            pauses=self.pauses + other.pauses,
        )

    @classmethod
    def of(cls, figures: Sequence[float]) -> Losses:
        """Read the :data:`FIGURES` numbers of :func:`count_losses`."""
        groups = LONGEST_RUN + 1
        *counts, pauses = (int(number) for number in figures[groups:])
        return cls(sums=tuple(figures[:groups]), counts=tuple(counts), pauses=pauses)

    @property
    def targets(self) -> int:
        """Number of real targets."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean over all real targets; 0 without targets."""
        return sum(self.sums) / max(self.targets, 1)

    @property
    def after_pause(self) -> float | None:
        """Mean over targets after a pause; None without any."""
        return sum(self.sums[1:]) / sum(self.counts[1:]) if any(self.counts[1:]) else None

    def after_run(self, length: int) -> float | None:
        """Mean over targets after a run of ``length`` pauses (0: after a real token); None without any."""
        return self.sums[length] / self.counts[length] if self.counts[length] else None


FIGURES = 2 * (LONGEST_RUN + 1) + 1
"""Length of the tensor of :func:`count_losses`."""


def masked_loss(token_losses: torch.Tensor, loss_weights: torch.Tensor) -> tuple[torch.Tensor, int, torch.Tensor]:
    """The loss of a microbatch in the form that Megatron-core's schedules expect.

    Args:
        token_losses: cross-entropy of every target, fp32 ``[B, S]``.
        loss_weights: weight of every target, 0 for ``<pause>``, same shape and dtype.

    Returns:
        The scalar to differentiate; 0 tokens, because the schedule must not count them; and the losses to report.
    """
    return torch.dot(token_losses.flatten(), loss_weights.flatten()), 0, token_losses.detach()


def count_losses(token_losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum up the losses ``[M, B, S]`` of ``batch``.

    Returns:
        fp64 ``[FIGURES]`` on the device: summed losses of valid targets by run of pauses, their numbers by run, and the
        number of pauses. :meth:`Losses.of` reads the sum over all ranks.
    """
    # Group of each target: its run of pauses, or -1 if it is not valid. [M, B, S] against [R, 1, 1, 1].
    group = torch.where(batch.is_target, batch.pause_runs.clamp(max=LONGEST_RUN), -1)
    runs = torch.arange(LONGEST_RUN + 1, device=group.device)[:, None, None, None]
    is_in = group == runs  # [R, M, B, S]
    # A sum of everything instead of scatter_add, which is not deterministic on GPUs.
    sums = torch.where(is_in, token_losses, 0.0).sum((1, 2, 3), dtype=torch.float64)
    return torch.cat([sums, is_in.sum((1, 2, 3)), (batch.pause_runs > 0).sum()[None]])
