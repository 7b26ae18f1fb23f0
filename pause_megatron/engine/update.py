"""Optimizer step: completes the accumulated gradients, then applies or discards them.

DeepSpeed reduces gradients over the ranks that share its optimizer's partitions. It does not know the parameters that
several model-parallel ranks hold in full although each sees only part of their gradient (under sequence parallelism
and with tied embeddings); this module reduces those.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from megatron.core import parallel_state

from pause_megatron.errors import UserError
from pause_megatron.model.parameters import NamedParameter


@dataclass(frozen=True, kw_only=True)
class Update:
    """Outcome of an optimizer step; equal on every rank."""

    applied: bool
    """False when the gradients were not finite: no weight changed. Under fp16 the loss scale was lowered instead."""
    grad_norm: float
    """Global gradient norm before clipping; infinite when not applied."""
    loss_scale: float
    """Factor of the loss in the backward pass; 1 except under fp16."""


def apply_gradients(engine: DeepSpeedEngine, parameters: Sequence[NamedParameter], learning_rate: float) -> Update:
    """Reduce the accumulated gradients, clip them, and update the weights if the gradients are finite.

    Raises :class:`UserError` when fp16's loss scale cannot be lowered any further.
    """
    if not engine.zero_optimization_partition_gradients():
        reduce_shared_gradients(parameters)
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    loss_scale = float(engine.optimizer.loss_scale)
    try:
        engine.step()
    except Exception as error:
        if "minimum" in str(error):  # DeepSpeed's text when the loss scale is at its minimum
            raise UserError(f"fp16: {error}; the gradients are not finite at any scale, train in bf16") from error
        raise
    applied = engine.was_step_applied()
    norm = float(engine.get_global_grad_norm()) if applied else float("inf")
    return Update(applied=applied, grad_norm=norm, loss_scale=loss_scale)


def discard_gradients(engine: DeepSpeedEngine) -> None:
    """Drop the accumulated gradients; the optimizer does not move."""
    zero = engine.optimizer
    if not engine.zero_optimization_partition_gradients():
        zero.zero_grad()
        return
    # ZeRO-2 and ZeRO-3 keep reduced gradients in several buffers. Their step clears all of them if the norm is not
    # finite, so run a step that sees an infinite norm.
    name = "_get_norm_groups" if engine.zero_optimization_partition_weights() else "scaled_global_norm"
    infinite = torch.tensor(float("inf"))
    with _returning(zero, name, [infinite] if name == "_get_norm_groups" else infinite):
        engine.step()
    assert not engine.was_step_applied()


@contextmanager
def _returning(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Make ``owner.name(...)`` return ``value`` inside the block."""
    setattr(owner, name, lambda *_, **__: value)
    try:
        yield
    finally:
        delattr(owner, name)


def sequence_parallel_parameters(parameters: Sequence[NamedParameter]) -> list[NamedParameter]:
    """Parameters whose gradient on each tensor-parallel rank covers only that rank's slice of the sequence.

    Under sequence parallelism these are the norms, and the biases added after a reduce-scatter.
    """
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return []
    return [item for item in parameters if getattr(item.parameter, "sequence_parallel", False)]


def summed_over_tensor_parallel(gradient: torch.Tensor) -> torch.Tensor:
    """Sum of ``gradient`` over the tensor-parallel ranks, same shape; for use as a parameter's gradient hook."""
    total = gradient.clone()  # autograd forbids a hook to change its argument
    dist.all_reduce(total, group=parallel_state.get_tensor_model_parallel_group())
    return total


def reduce_shared_gradients(parameters: Sequence[NamedParameter]) -> None:
    """Complete the accumulated gradients before ``engine.step()``; for ZeRO-0 and ZeRO-1.

    Sums the gradients of :func:`sequence_parallel_parameters` over the tensor-parallel ranks, and those of tied word
    embeddings (input of the first stage, output of the last) over the two stages.
    """
    for item in sequence_parallel_parameters(parameters):
        dist.all_reduce(_accumulated(item.parameter), group=parallel_state.get_tensor_model_parallel_group())
    if parallel_state.get_pipeline_model_parallel_world_size() > 1 and parallel_state.is_rank_in_embedding_group():
        for item in parameters:
            if getattr(item.parameter, "shared_embedding", False):
                dist.all_reduce(_accumulated(item.parameter), group=parallel_state.get_embedding_group())


def _accumulated(parameter: Any) -> torch.Tensor:
    gradient: torch.Tensor = getattr(parameter, "main_grad", parameter.grad)
    return gradient
