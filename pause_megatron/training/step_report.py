"""Report of a step: what all ranks must know after its backward pass, shared by one all-reduce and read once.

Reading a number from a GPU makes the host wait until the GPU has done all its work, and then the GPU waits for the
host. Losses, numbers of targets, the gradient norm, stop requests and the state of a pending checkpoint therefore
travel in one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from pause_megatron.parallel.pinned import to_device
from pause_megatron.training.loss import FIGURES, Losses
from pause_megatron.training.stop_requests import StopRequest

_REQUESTS = [request for request in StopRequest if request]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Facts that one rank may know alone, but on which all must act."""

    request: int = StopRequest.NONE
    """Largest stop request."""
    unfinished: int = 0
    """1 if any rank still writes a checkpoint, otherwise 0."""
    unreadable: int = 0
    """1 if any rank cannot read its part of the batch, otherwise 0."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Report of a step or validation batch; equal on every rank."""

    losses: Losses
    squared_norm: float
    """Squared norm of the accumulated gradients; 0 in validation."""
    flags: Flags
    """The largest of all ranks, as of the end of the backward pass."""


def share_report(
    losses: torch.Tensor | None, squared_norm: torch.Tensor | None, flags: Flags, device: torch.device
) -> StepReport:
    """Add up the reports of all ranks; every rank must call this.

    Args:
        losses: this rank's summand, see :func:`~pause_megatron.training.loss.count_losses`; None for zeros. Ranks that
            compute the same losses must not all give them.
        squared_norm: this rank's summand, fp64 scalar; None for 0.
        flags: of this rank.
        device: device of the tensors.
    """
    # Requests are numbers of ranks, one for each kind, because a sum is all that the ranks compute.
    votes = [float(flags.request == request) for request in _REQUESTS]
    votes += [float(flags.unfinished), float(flags.unreadable)]
    parts = [
        torch.zeros(FIGURES, dtype=torch.float64, device=device) if losses is None else losses,
        torch.zeros(1, dtype=torch.float64, device=device) if squared_norm is None else squared_norm[None],
        to_device(torch.tensor(votes, dtype=torch.float64), device),
    ]
    message = torch.cat(parts)
    dist.all_reduce(message)
    figures, (squares, *counted, unfinished, unreadable) = _split(message.tolist())
    request = max((request for request, ranks in zip(_REQUESTS, counted, strict=True) if ranks), default=0)
    agreed = Flags(request=request, unfinished=int(unfinished > 0), unreadable=int(unreadable > 0))
    return StepReport(losses=Losses.of(figures), squared_norm=squares, flags=agreed)


def _split(numbers: list[float]) -> tuple[list[float], list[float]]:
    return numbers[:FIGURES], numbers[FIGURES:]
