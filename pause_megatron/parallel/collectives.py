"""Collectives on small CPU values, with which all ranks take the same decision.

A rank that raises, saves or leaves by itself leaves the others hanging in their next collective. Ranks must therefore
agree first, for example on whether to stop. All functions here are collectives: every rank must call them, in the same
order. They use CPU tensors and small objects, so they need no GPU and are cheap enough for every training step.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pause_megatron.errors import UserError

Result = TypeVar("Result")


def max_over_ranks(values: Sequence[int]) -> list[int]:
    """All-reduce: return the maximum over all ranks of each of ``values``. Every rank must pass equally many."""
    tensor = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def gather_from_ranks(value: Any) -> list[Any]:
    """All-gather: return the ``value`` of every rank, in rank order."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from_rank_0(value: Any) -> Any:
    """Broadcast: return rank 0's ``value`` on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def raise_on_all_ranks(failure: str | None) -> None:
    """Raise :class:`UserError` on every rank if any rank passes a ``failure``; the lowest such rank's message wins."""
    if found := next((failure for failure in gather_from_ranks(failure) if failure), None):
        raise UserError(found)


def run_on_rank_0(action: Callable[[], Result]) -> Result:
    """Run ``action`` on rank 0 only and return its result on every rank.

    If it raises :class:`UserError` or ``OSError``, every rank raises a :class:`UserError` with the message.
    """
    result: Any = None
    failure = ""
    if dist.get_rank() == 0:
        try:
            result = action()
        except UserError as error:
            failure = str(error)
        except OSError as error:
            failure = f"{error.filename}: {error.strerror or error}"
    result, failure = broadcast_from_rank_0((result, failure))
    if failure:
        raise UserError(failure)
    found: Result = result
    return found
