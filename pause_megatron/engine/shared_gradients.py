"""Gradients that several model-parallel ranks hold in full although each sees only part of them.

DeepSpeed does not know them. Under sequence parallelism a tensor-parallel rank sees the gradient of its own slice of
the sequence, and in the norms of queries and keys always that of its own heads. With tied embeddings the first and the
last pipeline stage see one use each.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.model.parameters import NamedParameter


def partial_parameters(parameters: Sequence[NamedParameter]) -> list[Any]:
    """Parameters whose gradient on a tensor-parallel rank covers only that rank's slice of the sequence, or its heads.

    Under sequence parallelism these are the norms, and the biases added after a reduce-scatter. The norms of queries
    and keys always are among them.
    """
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return []
    return [item.parameter for item in parameters if getattr(item.parameter, "sequence_parallel", False)]


def tied_embeddings(parameters: Sequence[NamedParameter]) -> list[Any]:
    """Word embeddings that the first and the last pipeline stage share, on these two stages."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return []
    return [item.parameter for item in parameters if getattr(item.parameter, "shared_embedding", False)]


def summed_over_tensor_parallel(gradient: torch.Tensor) -> torch.Tensor:
    """Sum of ``gradient`` over the tensor-parallel ranks, same shape; for use as a parameter's gradient hook."""
    total = gradient.clone()  # autograd forbids a hook to change its argument
    dist.all_reduce(total, group=parallel_state.get_tensor_model_parallel_group())
    return total


def reduce_shared_gradients(partial: torch.Tensor | None, embeddings: Sequence[torch.Tensor]) -> None:
    """Complete accumulated gradients in place: those of the tensor-parallel ranks, and those of the two stages.

    ``partial`` has the gradients of all :func:`partial_parameters` in one flat tensor.
    """
    if partial is not None:
        dist.all_reduce(partial, group=parallel_state.get_tensor_model_parallel_group())
    for gradient in embeddings:
        dist.all_reduce(gradient, group=parallel_state.get_embedding_group())
