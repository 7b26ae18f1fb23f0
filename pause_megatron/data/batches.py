"""Batches of a training step on the device: input ids, labels, loss mask and runs of pauses.

Only token ids are read and copied. All other tensors are functions of them and are computed on the device, once for all
microbatches of a step.

Shapes: M microbatches, B sequences in each (``micro_batch_size``), S tokens in each (``seq_length``).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pause_megatron.pauses.loss_mask import loss_mask, pause_runs
from pause_megatron.pauses.pause_ids import PauseIds
from pause_megatron.pauses.pause_inputs import pause_inputs
from pause_megatron.pauses.positions import shared_positions


@dataclass(frozen=True, kw_only=True)
class Microbatch:
    """Input of one forward pass; all tensors are ``[B, S]``."""

    tokens: torch.Tensor
    """Input ids, int64."""
    labels: torch.Tensor
    """Next token of each position, int64."""
    position_ids: torch.Tensor
    """Position index of each token, int64; 0 to S - 1 unless pauses share them."""
    loss_weights: torch.Tensor
    """1 / (M * B * S) where the label carries loss, else 0; fp32."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This rank's microbatches of one global batch; all tensors are ``[M, B, S]``."""

    tokens: torch.Tensor
    """Input ids, int64."""
    labels: torch.Tensor
    """Next token of each position, int64."""
    is_target: torch.Tensor
    """True where the label carries loss."""
    position_ids: torch.Tensor
    """Position index of each token, int64."""
    pause_runs: torch.Tensor
    """Number of consecutive pauses that end at each position, for example 2 at the second pause of a run; 0 at real
    tokens; int64."""

    @classmethod
    def of(
        cls,
        samples: torch.Tensor,
        pause_ids: PauseIds,
        *,
        repeats_tokens: bool = False,
        filler: torch.Tensor | None = None,
        shares_positions: bool = False,
    ) -> "Batch":
        """Return the batch of ``samples``, int64 ``[M, B, S + 1]`` on any device.

        ``repeats_tokens`` and ``filler``, int64 on the same device, decide the inputs at pauses, see
        :func:`~pause_megatron.pauses.pause_inputs.pause_inputs`. With ``shares_positions``, a pause has the position
        index of the real token before it, see :mod:`~pause_megatron.pauses.positions`.
        """
        tokens, labels = samples[..., :-1].contiguous(), samples[..., 1:]
        runs = pause_runs(tokens, pause_ids)  # [M, B, S]
        tokens = pause_inputs(tokens, runs, repeats_tokens=repeats_tokens, filler=filler)
        positions = torch.arange(tokens.shape[-1], device=tokens.device).expand_as(tokens)
        if shares_positions:
            positions = shared_positions(runs == 0)
        is_target = loss_mask(labels, pause_ids)
        return cls(tokens=tokens, labels=labels, is_target=is_target, position_ids=positions, pause_runs=runs)

    def __len__(self) -> int:
        """Number of microbatches."""
        return len(self.tokens)

    def __iter__(self) -> Iterator[Microbatch]:
        """Yield the microbatches in order."""
        weights = self.is_target / self.tokens.numel()
        parts = zip(self.tokens, self.labels, self.position_ids, weights, strict=True)
        for tokens, labels, positions, of_one in parts:
            yield Microbatch(tokens=tokens, labels=labels, position_ids=positions, loss_weights=of_one)


def own_positions(
    start: int, *, num_microbatches: int, micro_batch_size: int, data_parallel_rank: int, data_parallel_size: int
) -> Iterator[int]:
    """Yield the positions of this rank's samples in the global batch that begins at position ``start``, in order.

    Microbatch ``m`` of data-parallel rank ``r`` of ``R`` holds ``micro_batch_size`` positions from
    ``start + (m * R + r) * micro_batch_size`` on. For example, with R = 2 and micro_batch_size 2:

        position - start   0 1 | 2 3 | 4 5 | 6 7
        rank, microbatch   0,0 | 1,0 | 0,1 | 1,1
    """
    for microbatch in range(num_microbatches):
        first = start + (microbatch * data_parallel_size + data_parallel_rank) * micro_batch_size
        yield from range(first, first + micro_batch_size)
