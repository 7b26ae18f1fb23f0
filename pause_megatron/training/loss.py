"""The loss of a step: the mean over the valid targets of the whole global batch.

A mask that keeps unequal numbers of targets in microbatches and on data-parallel processes must not weight them
unequally, so the count of valid targets is summed over all of them *before* the schedule runs. Megatron-core then
divides each microbatch's loss by the number of microbatches and DeepSpeed the gradients by the number of data-parallel
processes; the factor here undoes both.

Losses and counts are kept apart by the number of pauses the model has just seen: whether a real token is predicted
better after a pause than after a real token is the first thing pause-training shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.data.batches import Microbatch

LONGEST_RUN = 8
"""Runs of pauses of this length and longer are counted together."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses over real targets, by the pauses just before them. Entry ``k`` of each tuple is of targets that follow a
    run of ``k`` pauses: 0 for a real token, :data:`LONGEST_RUN` for that many or more."""

    sums: tuple[float, ...] = (0.0,) * (LONGEST_RUN + 1)
    """Summed cross-entropies, nats."""
    counts: tuple[int, ...] = (0,) * (LONGEST_RUN + 1)
    """Targets."""
    pauses: int = 0
    """Pauses among the tokens."""

    def __add__(self, other: Losses) -> Losses:
        return Losses(
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            pauses=self.pauses + other.pauses,
        )

    @property
    def targets(self) -> int:
        """All real targets."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean over all real targets; 0 when there is none."""
        return sum(self.sums) / max(self.targets, 1)

    @property
    def after_real(self) -> float | None:
        """Mean over targets that follow a real token."""
        return self.after_run(0)

    @property
    def after_pause(self) -> float | None:
        """Mean over targets that follow a pause."""
        return sum(self.sums[1:]) / sum(self.counts[1:]) if any(self.counts[1:]) else None

    def after_run(self, length: int) -> float | None:
        """Mean over targets that follow a run of ``length`` pauses; None when there is no such target."""
        return self.sums[length] / self.counts[length] if self.counts[length] else None


def count_targets(microbatches: Sequence[Microbatch]) -> Losses:
    """The targets that carry loss, and the pauses, of all microbatches of all data-parallel processes; sums are 0."""
    valid = torch.stack([_by_run(batch.loss_mask, batch.pause_runs) for batch in microbatches]).sum(0)
    pauses = torch.stack([(batch.pause_runs > 0).sum() for batch in microbatches]).sum()
    counts = torch.cat([valid, pauses[None]]).long()
    dist.all_reduce(counts, group=parallel_state.get_data_parallel_group())
    *targets, found_pauses = (int(count) for count in counts.tolist())
    return Losses(counts=tuple(targets), pauses=found_pauses)


def masked_loss(
    token_losses: torch.Tensor, loss_mask: torch.Tensor, pause_runs: torch.Tensor, factor: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What Megatron-core's schedule wants of a microbatch.

    Args:
        token_losses: cross-entropy of every target, ``[micro_batch_size, seq_length]``.
        loss_mask: 1.0 where the target carries loss, same shape.
        pause_runs: pauses that end at the token before the target, same shape.
        factor: ``num_microbatches * data_parallel_size / valid targets of the global batch``.

    Returns:
        The scalar to differentiate, and the sums of the kept losses (nats) by run of pauses, to report. The schedule
        divides the former in place, so the two must not share memory.
    """
    kept = token_losses.float() * loss_mask
    return kept.sum() * factor, {"loss_sums": _by_run(kept.detach(), pause_runs)}


def _by_run(values: torch.Tensor, pause_runs: torch.Tensor) -> torch.Tensor:
    """The sums of ``values`` by run of pauses, fp64 ``[LONGEST_RUN + 1]``; in an order that is always the same."""
    runs = torch.arange(LONGEST_RUN + 1, device=values.device)[:, None, None]
    return torch.where(pause_runs.clamp(max=LONGEST_RUN) == runs, values, 0.0).sum((1, 2), dtype=torch.float64)


def reduce_losses(reported: Sequence[dict[str, torch.Tensor]], counted: Losses, device: torch.device) -> Losses:
    """Sum what :func:`masked_loss` reported over microbatches and data-parallel processes, and tell every stage."""
    sums = torch.zeros(LONGEST_RUN + 1, dtype=torch.float64, device=device)
    if parallel_state.is_pipeline_last_stage():
        sums += torch.stack([record["loss_sums"] for record in reported]).sum(0)
        dist.all_reduce(sums, group=parallel_state.get_data_parallel_group())
    dist.broadcast(
        sums,
        src=parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    return Losses(sums=tuple(sums.tolist()), counts=counted.counts, pauses=counted.pauses)
