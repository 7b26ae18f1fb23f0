"""LayerNorm and RMSNorm that work under sequence parallelism without Apex or TransformerEngine."""

from __future__ import annotations

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class Norm:
    """PyTorch's norm of the kind ``config.normalization`` names.

    Under sequence parallelism each tensor-parallel process normalises its own slice of the sequence and sees only that
    slice's gradient; the parameters are flagged so that the training step sums their gradients.

    A class because a layer spec takes only classes; what it makes is the norm itself.
    """

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: object
    ) -> torch.nn.Module:
        """Make the norm; Megatron-core passes more keywords than it needs."""
        kind = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}[config.normalization]
        norm: torch.nn.Module = kind(hidden_size, eps=eps)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm
