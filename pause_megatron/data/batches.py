"""Microbatches of a training step; they depend on the step and the data-parallel rank only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pause_megatron.data.training_sample import Sample
from pause_megatron.pauses.loss_mask import pause_runs

_SAMPLE_KEYS = ("tokens", "labels", "loss_mask", "position_ids")


@dataclass(frozen=True, kw_only=True)
class Microbatch:
    """Input of one forward pass: stacked samples (see :data:`Sample`), ``[micro_batch_size, seq_length]``."""

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    position_ids: torch.Tensor
    pause_runs: torch.Tensor
    """Number of consecutive pauses that end at each position, for example 2 at the second pause of a run; 0 at real
    tokens; int64."""


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
    """Yield this rank's microbatches of the global batch that starts at position ``start`` of ``sample_at``.

    Microbatch ``m`` of data-parallel rank ``r`` of ``R`` holds ``micro_batch_size`` positions from
    ``start + (m * R + r) * micro_batch_size`` on. For example, with R = 2 and micro_batch_size 2:

        position - start   0 1 | 2 3 | 4 5 | 6 7
        rank, microbatch   0,0 | 1,0 | 0,1 | 1,1
    """
    for microbatch in range(num_microbatches):
        first = start + (microbatch * data_parallel_size + data_parallel_rank) * micro_batch_size
        samples = [sample_at(position) for position in range(first, first + micro_batch_size)]
        # [seq_length] of each sample to [micro_batch_size, seq_length]
        batch = {key: torch.stack([sample[key] for sample in samples]) for key in _SAMPLE_KEYS}
        batch["pause_runs"] = pause_runs(batch["tokens"], pause_id)
        yield Microbatch(**{key: tensor.to(device) for key, tensor in batch.items()})
