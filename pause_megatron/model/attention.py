"""Core attention by PyTorch's fused scaled-dot-product attention, as a Megatron-core module.

Shape letters: S sequence, B batch, H query heads of this rank, G key/value heads (groups) of this rank, D head size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.attention import SDPBackend

from pause_megatron.config.model import ModelConfig


def attention_kernel(model: ModelConfig, *, seq_length: int, dtype: torch.dtype, device: torch.device) -> str:
    """Return the kernel that PyTorch chooses for the attention of ``model``: cudnn, flash, efficient or math.

    Math is slow and stores S x S matrices.
    """
    shape = seq_length, model.head_dim
    query = torch.empty(1, model.num_attention_heads, *shape, dtype=dtype, device=device, requires_grad=True)
    key = torch.empty(1, model.query_groups, *shape, dtype=dtype, device=device, requires_grad=True)
    grouped = model.query_groups != model.num_attention_heads
    choice = torch._fused_sdp_choice(query, key, key, is_causal=True, enable_gqa=grouped)
    return SDPBackend(choice).name.removesuffix("_ATTENTION").lower()


class ScaledDotProductAttention(torch.nn.Module):
    """Causal attention over this rank's heads; supports grouped queries.

    Replaces Megatron-core's ``DotProductAttention`` in a layer spec. It stores no S x S matrix and needs neither Apex
    nor TransformerEngine. Pretraining is always causal (arXiv 2310.02226, section 3), so no mask tensor is read.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        assert attn_mask_type == AttnMaskType.causal, attn_mask_type
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """Attend causally: from query ``[S, B, H, D]``, key and value ``[S, B, G, D]`` to ``[S, B, H * D]``.

        Masks are ignored; ``attention_bias`` and ``packed_seq_params`` must be None.
        """
        assert attention_bias is None
        assert packed_seq_params is None
        sequence, batch, heads, head_dim = query.shape
        context = F.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),  # [S, B, H, D] -> [B, H, S, D]
            key.permute(1, 2, 0, 3),  # [S, B, G, D] -> [B, G, S, D]
            value.permute(1, 2, 0, 3),
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=key.shape[2] != heads,
        )
        return context.permute(2, 0, 1, 3).reshape(sequence, batch, heads * head_dim)  # [B, H, S, D] -> [S, B, H * D]
