"""Loss of a step: the mean over the valid targets of the global batch.

Every target must have the same weight, so the valid targets of the global batch are counted *before* the schedule runs.
Megatron-core divides each microbatch's loss by the number of microbatches, and DeepSpeed the gradients by the number of
data-parallel ranks; the factor of :func:`masked_loss` undoes both. For example, 4 microbatches on 2 ranks with 1000
valid targets in total have the factor 4 * 2 / 1000. Losses and counts are grouped by the run of pauses before the
target, because the first effect of pause-training is a lower loss after a pause than after a real token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.data.batches import Microbatch

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


def count_targets(microbatches: Sequence[Microbatch]) -> Losses:
    """Count the valid targets and the pauses of the global batch over all data-parallel ranks; all sums are 0."""
    # [num_microbatches, LONGEST_RUN + 1] -> [LONGEST_RUN + 1]; pauses is a scalar
    valid = torch.stack([_by_run(batch.loss_mask, batch.pause_runs) for batch in microbatches]).sum(0)
    pauses = torch.stack([(batch.pause_runs > 0).sum() for batch in microbatches]).sum()
    counts = torch.cat([valid, pauses[None]]).long()  # [LONGEST_RUN + 2]: one all-reduce for both
    dist.all_reduce(counts, group=parallel_state.get_data_parallel_group())
    *targets, found_pauses = (int(count) for count in counts.tolist())
    return Losses(counts=tuple(targets), pauses=found_pauses)


def masked_loss(
    token_losses: torch.Tensor, loss_mask: torch.Tensor, pause_runs: torch.Tensor, factor: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a microbatch in the form that Megatron-core's schedule expects.

    Args:
        token_losses: cross-entropy of every target, ``[micro_batch_size, seq_length]``.
        loss_mask: 1.0 for valid targets, else 0.0, same shape.
        pause_runs: number of consecutive pauses directly before the target, same shape.
        factor: ``num_microbatches * data_parallel_size / valid targets of the global batch``.

    Returns:
        The scalar to differentiate, and the summed losses of valid targets in nats by run of pauses, to report. The
        schedule divides the scalar in place, so the two must not share memory.
    """
    kept = token_losses.float() * loss_mask
    return kept.sum() * factor, {"loss_sums": _by_run(kept.detach(), pause_runs)}


def _by_run(values: torch.Tensor, pause_runs: torch.Tensor) -> torch.Tensor:
    """Sums of ``values`` by run of pauses, fp64 ``[LONGEST_RUN + 1]``."""
    # [R, 1, 1] against [B, S] -> [R, B, S] -> [R]; scatter_add is not deterministic on GPUs.
    runs = torch.arange(LONGEST_RUN + 1, device=values.device)[:, None, None]
    return torch.where(pause_runs.clamp(max=LONGEST_RUN) == runs, values, 0.0).sum((1, 2), dtype=torch.float64)


def reduce_losses(reported: Sequence[dict[str, torch.Tensor]], counted: Losses, device: torch.device) -> Losses:
    """Sum the reports of :func:`masked_loss` over microbatches and data-parallel ranks; equal on every stage."""
    sums = torch.zeros(LONGEST_RUN + 1, dtype=torch.float64, device=device)
    if parallel_state.is_pipeline_last_stage():  # other stages compute no loss
        sums += torch.stack([record["loss_sums"] for record in reported]).sum(0)
        dist.all_reduce(sums, group=parallel_state.get_data_parallel_group())
    dist.broadcast(
        sums,
        src=parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    return Losses(sums=tuple(sums.tolist()), counts=counted.counts, pauses=counted.pauses)
