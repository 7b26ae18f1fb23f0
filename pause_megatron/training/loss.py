"""The loss of a step: the mean over the valid targets of the whole global batch.

A mask that keeps unequal numbers of targets in microbatches and on data-parallel processes must not weight them
unequally, so the count of valid targets is summed over all of them *before* the schedule runs. Megatron-core then
divides each microbatch's loss by the number of microbatches and DeepSpeed the gradients by the number of data-parallel
processes; the factor here undoes both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.data.batches import Microbatch


def count_targets(microbatches: Sequence[Microbatch]) -> tuple[int, int]:
    """Targets that carry loss (at least 1), and pauses, over all microbatches of all data-parallel processes."""
    valid = torch.stack([batch.loss_mask.sum() for batch in microbatches]).sum().double()
    pauses = torch.full_like(valid, sum(batch.pauses for batch in microbatches))
    counts = torch.stack([valid, pauses])
    dist.all_reduce(counts, group=parallel_state.get_data_parallel_group())
    return max(int(counts[0].item()), 1), int(counts[1].item())


def masked_loss(
    token_losses: torch.Tensor, loss_mask: torch.Tensor, factor: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What Megatron-core's schedule wants of a microbatch.

    Args:
        token_losses: cross-entropy of every target, ``[micro_batch_size, seq_length]``.
        loss_mask: 1.0 where the target carries loss, same shape.
        factor: ``num_microbatches * data_parallel_size / valid targets of the global batch``.

    Returns:
        The scalar to differentiate, and the sum of the kept losses (nats) to report. The schedule divides the former in
        place, so the two must not share memory.
    """
    loss_sum = (token_losses.float() * loss_mask).sum()
    return loss_sum * factor, {"loss_sum": loss_sum.detach().clone()}


def reduce_loss_sum(reported: Sequence[dict[str, torch.Tensor]], device: torch.device) -> float:
    """Sum what :func:`masked_loss` reported over microbatches and data-parallel processes, and tell every stage."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    if parallel_state.is_pipeline_last_stage():
        total += torch.stack([record["loss_sum"] for record in reported]).double().sum()
        dist.all_reduce(total, group=parallel_state.get_data_parallel_group())
    dist.broadcast(
        total,
        src=parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    return float(total.item())
