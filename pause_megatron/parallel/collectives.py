"""Collectives on small values, with which all ranks take the same decision.

A rank that raises, saves or leaves by itself leaves the others hanging in their next collective. Ranks must therefore
agree first, for example on whether to stop. All functions here are collectives: every rank must call them, in the same
order. They use CPU tensors, so they need no GPU and are cheap enough for every training step.

Values travel as JSON and are checked against their type. PyTorch's own collectives for objects unpickle what they
receive, so whoever joins the process group could run code in every rank.
"""

import json
from collections.abc import Callable, Sequence
from types import NoneType
from typing import TypeVar

import msgspec
import torch
import torch.distributed as dist

from pause_megatron.errors import UserError, one_line, system_error

Result = TypeVar("Result")
Value = TypeVar("Value")


def max_over_ranks(values: Sequence[int]) -> list[int]:
    """All-reduce: return the maximum over all ranks of each of ``values``. Every rank must pass equally many."""
    tensor = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def gather_from_ranks(value: Value, kind: type[Value]) -> list[Value]:
    """All-gather: return the ``value`` of every rank, in rank order.

    ``kind`` is the type of the values: a dataclass, or a type that JSON can hold. Raises :class:`UserError` if a rank
    sends something else.
    """
    return _gather(value, kind, on_all_ranks=True)


def gather_on_rank_0(value: Value, kind: type[Value]) -> list[Value]:
    """Gather: like :func:`gather_from_ranks` on rank 0; other ranks get an empty list."""
    return _gather(value, kind, on_all_ranks=False)


def _gather(value: Value, kind: type[Value], *, on_all_ranks: bool) -> list[Value]:
    message = _encode(value)
    sizes = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(message)]))
    longest = int(max(sizes))
    message = torch.nn.functional.pad(message, (0, longest - len(message)))
    receives = on_all_ranks or dist.get_rank() == 0
    messages = [torch.empty(longest, dtype=torch.uint8) for _ in sizes] if receives else []
    if on_all_ranks:
        dist.all_gather(messages, message)
    else:
        dist.gather(message, messages or None)
    received = zip(messages, sizes, strict=False)
    return [_decode(message[: int(size)], kind, rank) for rank, (message, size) in enumerate(received)]


def broadcast_from_rank_0(value: Value | None, kind: type[Value]) -> Value:
    """Broadcast: return rank 0's ``value``, which is of type ``kind``, on every rank. Raises like the gathers."""
    is_source = dist.get_rank() == 0
    message = _encode(value) if is_source else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(message)])
    dist.broadcast(size, src=0)
    if not is_source:
        message = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(message, src=0)
    return _decode(message, kind, 0)


def _encode(value: object) -> torch.Tensor:
    """Return ``value`` as JSON, uint8 ``[bytes]``. Paths become strings."""
    text = json.dumps(msgspec.to_builtins(value, enc_hook=str))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _decode(message: torch.Tensor, kind: type[Value], rank: int) -> Value:
    try:
        return msgspec.convert(json.loads(message.numpy().tobytes()), kind, dec_hook=lambda kind, value: kind(value))
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UserError(
            f"rank {rank}: sent no {kind} ({one_line(error)}); run the same version of this program on all ranks, and"
            " keep other programs away from MASTER_PORT"
        ) from error


def raise_on_all_ranks(failure: str | None) -> None:
    """Raise :class:`UserError` on every rank if any rank passes a ``failure``; the lowest such rank's message wins."""
    if found := first_of_ranks(failure):
        raise UserError(found)


def first_of_ranks(text: str | None) -> str:
    """All-gather: return the text of the lowest rank that passes one; empty if none does."""
    return next(filter(None, gather_from_ranks(text or "", str)), "")


def run_on_rank_0(action: Callable[[], Result], kind: type[Result] = NoneType) -> Result:  # type: ignore[assignment]
    """Run ``action`` on rank 0 only and return its result, which is of type ``kind``, on every rank.

    If it raises :class:`UserError` or ``OSError``, every rank raises a :class:`UserError` with the message.
    """
    result, failure = None, ""
    if dist.get_rank() == 0:
        try:
            result = action()
        except UserError as error:
            failure = str(error)
        except OSError as error:
            failure = str(system_error(error) or error)
    if failure := broadcast_from_rank_0(failure, str):
        raise UserError(failure)
    return broadcast_from_rank_0(result, kind)
