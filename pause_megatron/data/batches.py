"""The order of samples and the microbatches of a step.

Both depend on the seed and the number of consumed samples alone: a run continues with the same data after a restart,
also under another layout, as long as the global batch size stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pause_megatron.data.sequences import SequenceDataset
from pause_megatron.pauses.loss_mask import loss_mask


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
    pauses: int
    """Pauses among the tokens."""


class SampleOrder:
    """A shuffled, endless walk over ``num_samples`` samples: a new permutation each epoch."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def __call__(self, position: int) -> int:
        """The sample at ``position`` of the walk."""
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
            self._epoch = epoch
        return int(self._permutation[offset])


def stored_order(position: int) -> int:
    """The walk of a validation: samples as they are stored."""
    return position


def microbatches(
    dataset: SequenceDataset,
    order: Callable[[int], int],
    *,
    start: int,
    num_microbatches: int,
    micro_batch_size: int,
    data_parallel_rank: int,
    data_parallel_size: int,
    device: torch.device,
    end: int | None = None,
) -> Iterator[Microbatch]:
    """This process's microbatches of the global batch that begins at position ``start`` of the walk.

    Microbatch ``m`` of data-parallel rank ``r`` holds the positions from ``start + (m * size + r) * micro_batch_size``.
    From position ``end`` on, samples are blank and carry no loss, so that the last batch of a validation may be short.
    """
    pause_id, seq_length = dataset.manifest.pause_id, dataset.manifest.seq_length
    blank = (np.zeros(seq_length, np.int64), np.full(seq_length, pause_id, np.int64))
    for microbatch in range(num_microbatches):
        first = start + (microbatch * data_parallel_size + data_parallel_rank) * micro_batch_size
        positions = range(first, first + micro_batch_size)
        samples = [blank if end is not None and position >= end else dataset[order(position)] for position in positions]
        tokens = torch.from_numpy(np.stack([tokens for tokens, _ in samples])).to(device)
        labels = torch.from_numpy(np.stack([labels for _, labels in samples])).to(device)
        yield Microbatch(
            tokens=tokens,
            labels=labels,
            loss_mask=loss_mask(labels, pause_id).float(),
            position_ids=torch.arange(tokens.shape[1], device=device).expand_as(tokens),
            pauses=sum(int(np.count_nonzero(tokens == pause_id)) for tokens, _ in samples),
        )
