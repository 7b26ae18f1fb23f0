"""Gradients between the backward pass and the update: made whole where several processes each saw a part, or dropped.

DeepSpeed reduces over the processes that share its optimizer's partitions. What it does not know of is summed here:
parameters that sequence parallelism or tied embeddings spread over model-parallel processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.model.parameters import NamedParameter


def split_over_the_sequence(parameters: Sequence[NamedParameter]) -> list[NamedParameter]:
    """The parameters of which every tensor-parallel process sees the gradient of its slice of the sequence only.

    Under sequence parallelism those are the norms and the biases added after a reduce-scatter.
    """
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return []
    return [item for item in parameters if getattr(item.parameter, "sequence_parallel", False)]


def sum_over_tensor_parallel(gradient: torch.Tensor) -> torch.Tensor:
    """The sum of ``gradient`` over the tensor-parallel processes; to be hung on a parameter as a hook."""
    whole = gradient.clone()
    dist.all_reduce(whole, group=parallel_state.get_tensor_model_parallel_group())
    return whole


def reduce_shared_gradients(parameters: Sequence[NamedParameter]) -> None:
    """Make the accumulated gradients whole, before ``engine.step()``; for ZeRO-0 and ZeRO-1.

    Sums the gradients of :func:`split_over_the_sequence` over the tensor-parallel processes, and those of tied word
    embeddings (used as input on the first stage, as output on the last) over the two stages.
    """
    for item in split_over_the_sequence(parameters):
        dist.all_reduce(_accumulated(item.parameter), group=parallel_state.get_tensor_model_parallel_group())
    if parallel_state.get_pipeline_model_parallel_world_size() > 1 and parallel_state.is_rank_in_embedding_group():
        for item in parameters:
            if getattr(item.parameter, "shared_embedding", False):
                dist.all_reduce(_accumulated(item.parameter), group=parallel_state.get_embedding_group())


def _accumulated(parameter: Any) -> torch.Tensor:
    """The gradient accumulated over the step's microbatches, wherever it is kept."""
    gradient: torch.Tensor = getattr(parameter, "main_grad", parameter.grad)
    return gradient


def discard_gradients(engine: deepspeed.DeepSpeedEngine) -> None:
    """Drop the accumulated gradients; the optimizer does not move."""
    zero = engine.optimizer
    if not engine.zero_optimization_partition_gradients():
        zero.zero_grad()
        return
    # ZeRO-2 and -3 hold reduced pieces in many places. Their step clears them all when the norm is not finite.
    name = "_get_norm_groups" if engine.zero_optimization_partition_weights() else "scaled_global_norm"
    infinite = torch.tensor(float("inf"))
    with _answering(zero, name, [infinite] if name == "_get_norm_groups" else infinite):
        engine.step()
    assert not engine.was_step_applied()


@contextmanager
def _answering(owner: Any, name: str, answer: Any) -> Iterator[None]:
    """``owner.name(...)`` gives ``answer`` inside the block."""
    setattr(owner, name, lambda *_, **__: answer)
    try:
        yield
    finally:
        delattr(owner, name)
