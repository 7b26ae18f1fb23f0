"""The microbatches of a step. They depend on the position of the step in the walk alone, not on the layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pause_megatron.data.training_sample import Sample
from pause_megatron.pauses.loss_mask import pause_runs


@dataclass(frozen=True, kw_only=True)
class Microbatch:
    """What one forward pass of a process computes on. All tensors are ``[micro_batch_size, seq_length]``."""

    tokens: torch.Tensor
    """Input ids, int64."""
    labels: torch.Tensor
    """The token after each, int64."""
    loss_mask: torch.Tensor
    """1.0 where the label carries loss, 0.0 where it is ``<pause>``; float32."""
    position_ids: torch.Tensor
    """0 to seq_length - 1, pauses counted as any token; int64."""
    pause_runs: torch.Tensor
    """Consecutive pauses that end at each token, 0 where it is real; int64."""


def microbatches(
    sample_at: Callable[[int], Sample],
    *,
    pause_id: int,
    start: int,
    num_microbatches: int,
    micro_batch_size: int,
    data_parallel_rank: int,
    data_parallel_size: int,
    device: torch.device,
) -> Iterator[Microbatch]:
    """This process's microbatches of the global batch that begins at position ``start`` of the walk ``sample_at``.

    Microbatch ``m`` of data-parallel rank ``r`` holds the positions from ``start + (m * size + r) * micro_batch_size``.
    """
    for microbatch in range(num_microbatches):
        first = start + (microbatch * data_parallel_size + data_parallel_rank) * micro_batch_size
        samples = [sample_at(position) for position in range(first, first + micro_batch_size)]
        tokens = torch.stack([sample["tokens"] for sample in samples])
        yield Microbatch(
            tokens=tokens.to(device),
            labels=torch.stack([sample["labels"] for sample in samples]).to(device),
            loss_mask=torch.stack([sample["loss_mask"] for sample in samples]).to(device),
            position_ids=torch.stack([sample["position_ids"] for sample in samples]).to(device),
            pause_runs=pause_runs(tokens, pause_id).to(device),
        )
