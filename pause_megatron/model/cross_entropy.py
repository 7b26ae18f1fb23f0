"""Vocabulary-parallel cross-entropy that needs little memory beyond the logits.

The logits are the model's largest activation (``[sequence, batch, 32k]``) and have the largest gradient.
Megatron-core's cross-entropy stores probabilities in fp32 (for bf16 logits a second tensor of twice the size) and
passes over them nine times. This one reads the logits once in the forward pass, and once more in the backward pass,
which overwrites them with their gradient. It converts only a few rows at a time to fp32.

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

    The backward pass overwrites ``logits``, so the caller must not read them after it, and it may run only once.

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
        statistics = _on_device(_statistics, logits.device.type)
        results = [statistics(*chunk) for chunk in _chunks(logits_nv, columns_n)]
        max_n, sums_n, targets_n = (torch.cat(chunks) for chunks in zip(*results, strict=True))
        losses_n = sums_n.log() - targets_n  # -log softmax at the label
        if group and group.size() > 1:
            # Every rank subtracted its own maximum; shift_n rescales to the maximum over all ranks.
            shift_n = max_n.clone()
            dist.all_reduce(max_n, op=dist.ReduceOp.MAX, group=group)
            shift_n -= max_n
            targets_n = targets_n + shift_n
            totals_2n = torch.stack([sums_n * shift_n.exp(), targets_n * is_here_n])
            dist.all_reduce(totals_2n, group=group)
            sums_n = totals_2n[0]
            losses_n = sums_n.log() - totals_2n[1]
        # d loss / d logit = probability - 1 at the label, and the probability elsewhere.
        factors_n = 1 / sums_n  # from exp(logit - max) to probability
        at_labels_n = targets_n.exp() * factors_n - is_here_n
        ctx.save_for_backward(logits, max_n, factors_n, columns_n, at_labels_n)
        return losses_n.view_as(labels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, max_n, factors_n, columns_n, at_labels_n = ctx.saved_tensors
        logits_nv, gradient_n = logits.flatten(0, -2), gradient.flatten()
        gradient_over_logits = _on_device(_gradient_over_logits, logits.device.type)
        for chunk in _chunks(logits_nv, max_n, gradient_n * factors_n):
            gradient_over_logits(*chunk)
        at_labels_n = (gradient_n * at_labels_n).to(logits.dtype)
        logits_nv.scatter_(1, columns_n[:, None], at_labels_n[:, None])
        return logits, None, None


def _chunks(logits_nv: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Split all tensors into the same chunks of a few rows."""
    rows = max(1, _CHUNK_ELEMENTS[logits_nv.device.type] // logits_nv.shape[1])
    return zip(*(tensor.split(rows) for tensor in (logits_nv, *others)), strict=True)


@cache
def _on_device(function: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """Fuse the operations into one kernel on GPUs; on CPUs chunks stay in the cache between operations."""
    return torch.compile(function, dynamic=True) if device_type == "cuda" and not compiler_problem("cuda") else function


def _statistics(logits_nv: torch.Tensor, columns_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return of each row the maximum, the sum of ``exp(logit - max)``, and the label's ``logit - max``, in fp32."""
    max_n = logits_nv.amax(1).float()
    targets_n = logits_nv.gather(1, columns_n[:, None]).squeeze(1) - max_n
    return max_n, (logits_nv - max_n[:, None]).exp_().sum(1), targets_n


def _gradient_over_logits(logits_nv: torch.Tensor, max_n: torch.Tensor, factors_n: torch.Tensor) -> None:
    """Overwrite logits with ``exp(logit - max)`` times ``factors_n``, in one pass when compiled."""
    logits_nv.copy_((logits_nv - max_n[:, None]).exp_().mul_(factors_n[:, None]))
