"""Cross-entropy over a vocabulary that tensor-parallel processes share, in the memory of the logits alone.

The logits are the model's largest activation (``[sequence, batch, 32k]``) and its largest gradient. Megatron-core's
cross-entropy keeps probabilities in fp32, which for bf16 logits is a second tensor of twice the size, and passes over
it nine times. Here exponentials are written over the logits and the gradient over the exponentials, some rows at a
time, in fp32 only for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from pause_megatron.model.compilation import has_compiler

_CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}
"""Logits worked on at a time: on a CPU what its caches hold in fp32, on a GPU what leaves its memory alone."""


def vocab_parallel_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """Cross-entropy of every position, in nats.

    Overwrites ``logits``: nobody else may read them afterwards, nor may the backward pass run twice.

    Args:
        logits: this process's columns of the logits, ``[..., vocabulary / processes]``, contiguous; process ``r`` of
            ``group`` holds the ``r``-th part of the vocabulary.
        labels: ids over the whole vocabulary, ``[...]``.
        group: the processes that share the vocabulary; not given: this one has all of it.

    Returns:
        fp32, of the shape of ``labels``, equal on every process of ``group``.
    """
    loss: torch.Tensor = _CrossEntropy.apply(logits, labels, group)
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
        logits = logits.detach()  # or autograd takes what becomes of a view for another function's result
        rows = logits.flatten(0, -2)
        columns, here = _own_columns(labels.flatten(), rows.shape[1], group)
        parts = [_exponentials_over_logits(*chunk) for chunk in _chunks(rows, columns)]
        largest, sums, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        factors, at_labels = 1 / sums, targets.exp()
        if group and group.size() > 1:
            shift = largest - _maximum(largest, group)
            sums, targets = _sum(torch.stack([sums * shift.exp(), (targets + shift) * here]), group)
            factors = shift.exp() / sums
        # The probabilities of the labels are kept apart: next to 1, bf16 would round them to it.
        ctx.save_for_backward(logits, factors, columns, here, at_labels * factors)
        return (sums.log() - targets).view_as(labels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        exponentials, factors, columns, here, probabilities = ctx.saved_tensors
        gradient = gradient.flatten()
        at_labels = gradient * (probabilities - here)
        for chunk in _chunks(exponentials.flatten(0, -2), gradient * factors, columns, at_labels):
            _gradient_over_exponentials(*chunk)
        return exponentials, None, None


def _own_columns(
    labels: torch.Tensor, vocab_part: int, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels as columns of this process's logits, and 1.0 where that is where they are, 0.0 elsewhere."""
    columns = labels - (group.rank() * vocab_part if group else 0)
    here = (columns >= 0) & (columns < vocab_part)
    return columns.clamp(0, vocab_part - 1), here.float()


def _maximum(values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    largest = values.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return largest


def _sum(values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    dist.all_reduce(values, group=group)
    return values


def _chunks(logits: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same few rows of all tensors at a time."""
    rows = max(1, _CHUNK_ELEMENTS[logits.device.type] // logits.shape[1])
    return zip(*(tensor.split(rows) for tensor in (logits, *others)), strict=True)


def _compiled_on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """One kernel instead of one for each operation; on a CPU the chunks stay in the cache between operations."""
    return torch.compile(function, dynamic=True) if torch.cuda.is_available() and has_compiler() else function


@_compiled_on_gpu
def _exponentials_over_logits(
    logits: torch.Tensor, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Replace ``logits`` by ``exp(logits - largest)``; returns each row's largest, sum, and ``label - largest``."""
    largest = logits.amax(1).float()
    targets = logits.gather(1, columns[:, None]).squeeze(1).float() - largest
    exponentials = logits.float().sub_(largest[:, None]).exp_()
    logits.copy_(exponentials)
    return largest, exponentials.sum(1), targets


@_compiled_on_gpu
def _gradient_over_exponentials(
    exponentials: torch.Tensor, factors: torch.Tensor, columns: torch.Tensor, at_labels: torch.Tensor
) -> None:
    """Replace ``exponentials`` by the gradient at the logits: times ``factors``, but ``at_labels`` for the labels."""
    exponentials.mul_(factors[:, None]).scatter_(1, columns[:, None], at_labels[:, None].to(exponentials.dtype))
