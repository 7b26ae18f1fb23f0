"""LayerNorm and RMSNorm that support tensor and sequence parallelism without Apex or TransformerEngine."""

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class Norm:
    """PyTorch's LayerNorm or RMSNorm, as ``config.normalization`` says.

    Under sequence parallelism each tensor-parallel rank normalizes its own slice of the sequence and has the gradient
    of that slice only. The parameters are therefore flagged, and the training step sums their gradients.

    This is a class because layer specs require one, but calling it returns the norm itself.
    """

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: object
    ) -> torch.nn.Module:
        """Return the norm; Megatron-core passes more keywords than it needs."""
        kind = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}[config.normalization]
        norm: torch.nn.Module = kind(hidden_size, eps=eps)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm


class HeadNorm(Norm):
    """RMSNorm of each head of the queries, or of the keys; all heads of a layer share its scale.

    Each tensor-parallel rank has the gradient of its own heads only, also without sequence parallelism.
    """

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: object
    ) -> torch.nn.Module:
        """Return the norm of heads of width ``hidden_size``."""
        norm = super().__new__(cls, config, hidden_size, eps)
        for parameter in norm.parameters():
            parameter.sequence_parallel = True  # type: ignore[attr-defined]
        return norm
