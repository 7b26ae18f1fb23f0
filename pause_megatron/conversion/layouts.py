"""How one Megatron-core tensor relates to Hugging Face's: each layout in both directions.

Shapes: H is the hidden size, F the MLP width, V the vocabulary, P its padded size; n query heads and g key/value heads
of width d, with r = n / g query heads in each group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from pause_megatron.config.model import ModelConfig, padded_vocab_size


class TensorLayout(Protocol):
    """One Megatron-core tensor to one or several of Hugging Face's, and back."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        """Split and rearrange Megatron-core's ``tensor``."""
        ...

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        """The inverse."""
        ...


@dataclass(frozen=True)
class Same:
    """The same tensor."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        """Unchanged."""
        return [tensor]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        """Unchanged."""
        return tensors[0]


@dataclass(frozen=True)
class Transposed:
    """A matrix stored ``[out, in]`` here and ``[in, out]`` in GPT-2's Conv1D."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        """Transpose."""
        return [tensor.t()]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        """Transpose."""
        return tensors[0].t()


@dataclass(frozen=True)
class VocabularyRows:
    """``[P, H]`` here, ``[V, H]`` there: padding rows are stripped. ``<pause>`` is a row of the vocabulary."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        """Keep the first V rows."""
        return [tensor[:vocab_size]]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        """Append zero rows up to P."""
        rows = tensors[0]
        return torch.cat([rows, rows.new_zeros(padded_vocab_size(vocab_size) - vocab_size, rows.shape[1])])


@dataclass(frozen=True)
class SplitQkv:
    """``[g * (r + 2) * d, ...]`` here, for each group its r query heads, its key and its value; three tensors there."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        """Gather the query, key and value heads of all groups."""
        tail = tensor.shape[1:]
        groups, per_group = model.query_groups, model.num_attention_heads // model.query_groups
        heads = tensor.reshape(groups, per_group + 2, model.head_dim, *tail)
        parts = heads[:, :per_group], heads[:, per_group], heads[:, per_group + 1]
        return [part.reshape(-1, *tail) for part in parts]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        """Interleave queries, keys and values by group."""
        tail = tensors[0].shape[1:]
        heads = [tensor.reshape(model.query_groups, -1, model.head_dim, *tail) for tensor in tensors]
        return torch.cat(heads, dim=1).reshape(-1, *tail)


@dataclass(frozen=True)
class FusedQkv:
    """As :class:`SplitQkv` here; there queries, keys and values follow each other in one tensor, transposed if 2-D.

    GPT-2 has no grouped queries: it gets a copy of its group's key and value for every query head, which computes the
    same.
    """

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        """Gather, repeat, concatenate, transpose a matrix."""
        queries, *keys_values = SplitQkv().to_hf(tensor, model, vocab_size)
        per_group = model.num_attention_heads // model.query_groups
        repeated = [_heads(part, model).repeat_interleave(per_group, 0).reshape(queries.shape) for part in keys_values]
        fused = torch.cat([queries, *repeated])
        return [fused.t() if fused.dim() == 2 else fused]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        """Transpose a matrix, split, keep one key and value of each group, interleave."""
        fused = tensors[0].t() if tensors[0].dim() == 2 else tensors[0]
        queries, *keys_values = fused.chunk(3)
        per_group = model.num_attention_heads // model.query_groups
        kept = [_heads(part, model)[::per_group].flatten(0, 1) for part in keys_values]
        return SplitQkv().from_hf([queries, *kept], model, vocab_size)


@dataclass(frozen=True)
class GateAndUp:
    """``[2F, H]`` here, the SiLU half first; two matrices there."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        """Split into gate and up."""
        return list(tensor.chunk(2))

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        """Stack gate on up."""
        return torch.cat(tensors)


def _heads(part: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    """``[heads * d, ...]`` as ``[heads, d, ...]``."""
    return part.reshape(-1, model.head_dim, *part.shape[1:])
