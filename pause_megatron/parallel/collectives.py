"""What all processes of a run have to agree on before any of them acts.

A process that raised, saved or left on its own would leave the others waiting in the next exchange. The exchanges here
are of CPU tensors and small objects, so they need no GPU and are cheap enough for every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from pause_megatron.errors import UserError


def max_over_ranks(values: Sequence[int]) -> list[int]:
    """The largest of each of ``values`` over all processes; every process calls this with equally many."""
    tensor = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def gather_from_ranks(value: Any) -> list[Any]:
    """``value`` of every process, by rank; every process calls this."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from_rank_0(value: Any) -> Any:
    """``value`` as rank 0 has it; every process calls this."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def raise_on_all_ranks(failure: str | None) -> None:
    """Raise the first process's ``failure`` as :class:`UserError` in all; every process calls this, most with None."""
    if found := next((failure for failure in gather_from_ranks(failure) if failure), None):
        raise UserError(found)
