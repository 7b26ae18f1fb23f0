"""Vocabulary-parallel cross-entropy that needs little memory beyond the logits.

The logits are the model's largest activation (``[sequence, batch, 32k]``) and have the largest gradient.
Megatron-core's cross-entropy stores probabilities in fp32 (for bf16 logits a second tensor of twice the size) and
passes over them nine times. This one overwrites the logits with their exponentials in the forward pass, and those with
the gradient in the backward pass, and converts only a few rows at a time to fp32.

Shape suffixes: n rows (all positions of all sequences), v logits of this rank (vocabulary / ranks of the group). For
example, ``logits_nv`` is ``[n, v]``, and ``max_n`` is ``[n]``.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from pause_megatron.model.compilation import compiler_problem

_CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}
"""Logits processed at a time: on CPUs as many as the caches hold in fp32, on GPUs a small part of the memory."""


def vocab_parallel_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """Return the cross-entropy of every position, in nats.

    Overwrites ``logits``: the caller must not read them afterwards, and the backward pass may run only once.

    Args:
        logits: this rank's logits, ``[..., v]``, contiguous; rank ``r`` of ``group`` must have the ``r``-th slice of
            the vocabulary.
        labels: ids in the complete vocabulary, ``[...]``.
        group: ranks that share the vocabulary; None if this rank has all of it.

    Returns:
        fp32 losses in the shape of ``labels``, equal on every rank of ``group``.
    """
    loss: torch.Tensor = _CrossEntropy.apply(logits, labels, group)
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
        logits = logits.detach()  # otherwise autograd takes the overwritten view for another function's output
        logits_nv = logits.flatten(0, -2)
        vocab_slice = logits_nv.shape[1]
        columns_n = labels.flatten() - (group.rank() * vocab_slice if group else 0)
        is_here_n = ((columns_n >= 0) & (columns_n < vocab_slice)).float()  # 1.0 if this rank has the label's logit
        columns_n = columns_n.clamp(0, vocab_slice - 1)
        exponentials_over_logits = _on_device(_exponentials_over_logits, logits.device.type)
        results = [exponentials_over_logits(*chunk) for chunk in _chunks(logits_nv, columns_n)]
        max_n, sums_n, targets_n = (torch.cat(chunks) for chunks in zip(*results, strict=True))
        # Now logits_nv holds exp(logit - max), sums_n its row sums, and targets_n the label's logit - max.
        factors_n, exp_at_labels_n = 1 / sums_n, targets_n.exp()
        if group and group.size() > 1:
            # Every rank subtracted its own maximum; shift_n rescales to the maximum over all ranks.
            global_max_n = max_n.clone()
            dist.all_reduce(global_max_n, op=dist.ReduceOp.MAX, group=group)
            shift_n = max_n - global_max_n
            totals_2n = torch.stack([sums_n * shift_n.exp(), (targets_n + shift_n) * is_here_n])
            dist.all_reduce(totals_2n, group=group)
            sums_n, targets_n = totals_2n
            factors_n = shift_n.exp() / sums_n  # exponential to probability
        # Keep the labels' probabilities separately in fp32: in bf16 a probability near 1 would be rounded to 1.
        ctx.save_for_backward(logits, factors_n, columns_n, is_here_n, exp_at_labels_n * factors_n)
        return (sums_n.log() - targets_n).view_as(labels)  # -log softmax at the label

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        exponentials, factors_n, columns_n, is_here_n, probabilities_n = ctx.saved_tensors
        gradient_n = gradient.flatten()
        # d loss / d logit = probability - 1 at the label, and the probability elsewhere.
        at_labels_n = gradient_n * (probabilities_n - is_here_n)
        gradient_over_exponentials = _on_device(_gradient_over_exponentials, exponentials.device.type)
        for chunk in _chunks(exponentials.flatten(0, -2), gradient_n * factors_n, columns_n, at_labels_n):
            gradient_over_exponentials(*chunk)
        return exponentials, None, None


def _chunks(logits_nv: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Split all tensors into the same chunks of a few rows."""
    rows = max(1, _CHUNK_ELEMENTS[logits_nv.device.type] // logits_nv.shape[1])
    return zip(*(tensor.split(rows) for tensor in (logits_nv, *others)), strict=True)


@cache
def _on_device(function: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """Fuse the operations into one kernel on GPUs; on CPUs chunks stay in the cache between operations."""
    return torch.compile(function, dynamic=True) if device_type == "cuda" and not compiler_problem("cuda") else function


def _exponentials_over_logits(
    logits_nv: torch.Tensor, columns_n: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overwrite logits with ``exp(logits - max)``; return each row's max, sum, and label's ``logit - max``."""
    max_n = logits_nv.amax(1).float()
    targets_n = logits_nv.gather(1, columns_n[:, None]).squeeze(1).float() - max_n
    exponentials_nv = logits_nv.float().sub_(max_n[:, None]).exp_()
    logits_nv.copy_(exponentials_nv)
    return max_n, exponentials_nv.sum(1), targets_n


def _gradient_over_exponentials(
    exponentials_nv: torch.Tensor, factors_n: torch.Tensor, columns_n: torch.Tensor, at_labels_n: torch.Tensor
) -> None:
    """Overwrite exponentials with the gradient of the logits: times ``factors_n``, but ``at_labels_n`` at labels."""
    exponentials_nv.mul_(factors_n[:, None])
    exponentials_nv.scatter_(1, columns_n[:, None], at_labels_n[:, None].to(exponentials_nv.dtype))
