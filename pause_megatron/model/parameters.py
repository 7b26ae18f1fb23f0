"""Names and shards of the model's parameters, independent of the layout.

Megatron-core numbers layers from zero in every pipeline chunk, and each tensor-parallel rank holds a slice of most
matrices. Here each parameter has its name in the complete model, for example ``decoder.layers.7.mlp.linear_fc1.weight``
on every pipeline stage, and a description of the slice that this rank holds. Initialization, checkpoints and conversion
use them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule

WORD_EMBEDDINGS = "embedding.word_embeddings.weight"
POSITION_EMBEDDINGS = "embedding.position_embeddings.weight"
OUTPUT_LAYER = "output_layer.weight"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Slice of a parameter that one tensor-parallel rank holds."""

    name: str
    """Name in the complete model."""
    global_shape: tuple[int, ...]
    """Shape in the complete model."""
    dim: int | None
    """Dimension that is sharded; None if every rank holds all of the parameter."""
    blocks: int
    """Matrices stacked along ``dim`` that are sharded one by one: 2 for [gate; up], otherwise 1."""
    tp_rank: int
    tp_size: int

    def slice(self, complete: torch.Tensor) -> torch.Tensor:
        """Return this rank's slice of the complete parameter.

        For example, rank 1 of 2 holds the rows marked x of [gate; up] (``dim`` 0, ``blocks`` 2)::

            gate 0-1   gate 2-3 x   up 0-1   up 2-3 x
        """
        if self.dim is None:
            return complete
        blocks = complete.chunk(self.blocks, self.dim)
        return torch.cat([block.chunk(self.tp_size, self.dim)[self.tp_rank] for block in blocks], self.dim)


def join_shards(slices: Sequence[torch.Tensor], *, dim: int | None, blocks: int) -> torch.Tensor:
    """Join the slices of all tensor-parallel ranks, in rank order; the inverse of :meth:`Shard.slice`."""
    if dim is None or len(slices) == 1:
        return slices[0]
    blocks_of_rank = [each.chunk(blocks, dim) for each in slices]
    # Block by block, each from all ranks: [gate of rank 0, gate of rank 1, up of rank 0, up of rank 1].
    return torch.cat([of_rank[block] for block in range(blocks) for of_rank in blocks_of_rank], dim)


@dataclass(frozen=True, kw_only=True)
class NamedParameter:
    """Parameter of this rank with its place in the complete model."""

    parameter: torch.nn.Parameter
    shard: Shard
    tied_copy: bool
    """Whether this is the last pipeline stage's copy of the tied word embeddings."""

    @property
    def name(self) -> str:
        """Name in the complete model."""
        return self.shard.name


def named_parameters(chunks: Sequence[MegatronModule]) -> list[NamedParameter]:
    """Return all parameters of this rank's model chunks, in a fixed order."""
    found = []
    for chunk in chunks:
        for local_name, parameter in chunk.named_parameters():
            name = _global_name(chunk, local_name)
            tied_copy = name == OUTPUT_LAYER and chunk.share_embeddings_and_output_weights
            if tied_copy:
                name = WORD_EMBEDDINGS
            stacks_gate_and_up = chunk.config.gated_linear_unit and ".mlp.linear_fc1." in name
            shard = _shard(name, parameter, blocks=2 if stacks_gate_and_up else 1)
            found.append(NamedParameter(parameter=parameter, shard=shard, tied_copy=tied_copy))
    return found


def _global_name(chunk: MegatronModule, local_name: str) -> str:
    match = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", local_name)
    if not match:
        return local_name
    layer = chunk.decoder.layers[int(match[1])]
    return f"decoder.layers.{layer.layer_number - 1}.{match[2]}"


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
