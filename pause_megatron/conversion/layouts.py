# ruff: noqa: D102 - the docstring of each class gives the shapes of both directions
"""Layouts of one Megatron-core tensor and the corresponding Hugging Face tensors, converted in both directions.

Shapes: H hidden size, F MLP width, V vocabulary size, P padded vocabulary size; n query heads and g key/value heads
(groups) of width d, with r = n / g query heads per group. ``*`` is H for a weight, and nothing for a bias.
"""

from typing import Protocol

import torch

from pause_megatron.config.model import ModelConfig, padded_vocab_size


class TensorLayout(Protocol):
    """``to_hf`` converts one Megatron-core tensor to one or more Hugging Face tensors; ``from_hf`` is the inverse."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]: ...

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor: ...


class Same:
    """The same tensor in both."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        return [tensor]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        return tensors[0]


class Transposed:
    """Megatron-core ``[out, in]``; Hugging Face ``[in, out]``, as GPT-2's Conv1D stores its weights."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        return [tensor.t()]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        return tensors[0].t()


class VocabularyRows:
    """Megatron-core ``[P, H]``; Hugging Face ``[V, H]``, without padding rows. ``<pause>`` is one of the V rows."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        return [tensor[:vocab_size]]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        rows = tensors[0]
        return torch.cat([rows, rows.new_zeros(padded_vocab_size(vocab_size) - vocab_size, rows.shape[1])])


class SplitQkv:
    """Megatron-core ``[g * (r + 2) * d, *]``: for each group its r query heads, then its key head, then its value head.
    Hugging Face (Llama): queries ``[n * d, *]``, keys ``[g * d, *]`` and values ``[g * d, *]``."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        g, r = model.query_groups, model.num_attention_heads // model.query_groups
        tail = tensor.shape[1:]
        heads = tensor.reshape(g, r + 2, model.head_dim, *tail)  # [g, r + 2, d, *]
        split = heads[:, :r], heads[:, r], heads[:, r + 1]  # [g, r, d, *], [g, d, *], [g, d, *]
        return [matrix.reshape(-1, *tail) for matrix in split]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        tail = tensors[0].shape[1:]
        # [g, r, d, *] for queries, [g, 1, d, *] for keys and for values; joined along the heads of a group
        heads = [tensor.reshape(model.query_groups, -1, model.head_dim, *tail) for tensor in tensors]
        return torch.cat(heads, dim=1).reshape(-1, *tail)


class FusedQkv:
    """Megatron-core: as :class:`SplitQkv`. Hugging Face (GPT-2): one tensor of all queries, all keys and all values,
    ``[H, 3 * n * d]`` for the weight (transposed) and ``[3 * n * d]`` for the bias.

    GPT-2 has no grouped queries. Each query head gets a copy of its group's key and value, which computes the same.
    """

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        queries, *keys_values = SplitQkv().to_hf(tensor, model, vocab_size)
        r = model.num_attention_heads // model.query_groups
        # [g, d, *] -> [n, d, *]: head i of a group becomes heads r * i to r * i + r - 1
        repeated = [_heads(kv, model).repeat_interleave(r, 0).reshape(queries.shape) for kv in keys_values]
        fused = torch.cat([queries, *repeated])  # [3 * n * d, *]
        return [fused.t() if fused.dim() == 2 else fused]

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        fused = tensors[0].t() if tensors[0].dim() == 2 else tensors[0]
        queries, *keys_values = fused.chunk(3)  # [n * d, *] each
        r = model.num_attention_heads // model.query_groups
        kept = [_heads(kv, model)[::r].flatten(0, 1) for kv in keys_values]  # every r-th head: [g * d, *]
        return SplitQkv().from_hf([queries, *kept], model, vocab_size)


class GateAndUp:
    """Megatron-core ``[2 * F, H]``, the gate (SiLU half) first; Hugging Face gate ``[F, H]`` and up ``[F, H]``."""

    def to_hf(self, tensor: torch.Tensor, model: ModelConfig, vocab_size: int) -> list[torch.Tensor]:
        return list(tensor.chunk(2))

    def from_hf(self, tensors: list[torch.Tensor], model: ModelConfig, vocab_size: int) -> torch.Tensor:
        return torch.cat(tensors)


def _heads(matrix: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    return matrix.reshape(-1, model.head_dim, *matrix.shape[1:])  # [heads * d, *] -> [heads, d, *]
