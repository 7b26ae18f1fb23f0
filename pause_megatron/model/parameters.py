"""Layout-independent names and shard maps of the model's parameters.

Megatron-core numbers layers from zero in every pipeline chunk and holds a slice of most matrices on every
tensor-parallel process. Here each parameter gets the name it has in the whole model, and a description of which part of
it this process holds. Initial weights, checkpoints and conversion all build on these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

WORD_EMBEDDINGS = "embedding.word_embeddings.weight"
OUTPUT_LAYER = "output_layer.weight"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The part of a parameter that one tensor-parallel process holds."""

    name: str
    """The parameter's name in the whole model."""
    global_shape: tuple[int, ...]
    """Its shape in the whole model."""
    dim: int | None
    """The dimension it is cut along; None when every process holds all of it."""
    blocks: int
    """Sub-matrices stacked along ``dim`` that are cut one by one: 2 for [gate; up], else 1."""
    tp_rank: int
    """Which part this is."""
    tp_size: int
    """Of how many."""

    def slice(self, whole: torch.Tensor) -> torch.Tensor:
        """Cut this process's part out of the ``whole`` parameter."""
        if self.dim is None:
            return whole
        parts = [block.chunk(self.tp_size, self.dim)[self.tp_rank] for block in whole.chunk(self.blocks, self.dim)]
        return torch.cat(parts, self.dim)


def join_shards(parts: Sequence[torch.Tensor], *, dim: int | None, blocks: int) -> torch.Tensor:
    """The inverse of :meth:`Shard.slice`: ``parts`` of all tensor-parallel processes, in order, to the whole."""
    if dim is None or len(parts) == 1:
        return parts[0]
    pieces = [part.chunk(blocks, dim) for part in parts]
    return torch.cat([piece[block] for block in range(blocks) for piece in pieces], dim)


@dataclass(frozen=True, kw_only=True)
class NamedParameter:
    """A parameter of this process with its place in the whole model."""

    parameter: torch.nn.Parameter
    """What the process holds."""
    shard: Shard
    """Which part of which parameter that is."""
    tied_copy: bool
    """Whether it is the last pipeline stage's copy of the tied word embeddings."""

    @property
    def name(self) -> str:
        """The parameter's name in the whole model."""
        return self.shard.name


def named_parameters(chunks: Sequence[GPTModel]) -> list[NamedParameter]:
    """All parameters of this process's model chunks, in a fixed order."""
    found = []
    for chunk in chunks:
        for local_name, parameter in chunk.named_parameters():
            name = _global_name(chunk, local_name)
            tied_copy = name == OUTPUT_LAYER and chunk.share_embeddings_and_output_weights
            if tied_copy:
                name = WORD_EMBEDDINGS
            shard = _shard(name, parameter, blocks=_blocks(chunk, name))
            found.append(NamedParameter(parameter=parameter, shard=shard, tied_copy=tied_copy))
    return found


def _global_name(chunk: GPTModel, local_name: str) -> str:
    match = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", local_name)
    if not match:
        return local_name
    layer = chunk.decoder.layers[int(match[1])]
    return f"decoder.layers.{layer.layer_number - 1}.{match[2]}"


def _blocks(chunk: GPTModel, name: str) -> int:
    return 2 if chunk.config.gated_linear_unit and ".mlp.linear_fc1." in name else 1


def _shard(name: str, parameter: Any, *, blocks: int) -> Shard:
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    dim = parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None
    shape = list(parameter.shape)
    if dim is not None:
        shape[dim] *= tp_size
    return Shard(
        name=name,
        global_shape=tuple(shape),
        dim=dim,
        blocks=blocks if dim is not None else 1,
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_size=tp_size,
    )
