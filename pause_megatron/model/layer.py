"""Megatron-core's transformer layer and MLP, changed so that they compile once and run on any device."""

from typing import Any

import torch
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch.utils.checkpoint import checkpoint


class Layer(TransformerLayer):
    """Replaces ``TransformerLayer`` in a layer spec.

    ``torch.compile`` compiles a function again for every new combination of training mode, gradient mode, whether the
    input requires a gradient, and the names of the arguments. This class leaves two combinations for all layers: with
    gradients, and without (in validation, and in the first pass of full recomputation).
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.compute = super().forward
        """Megatron-core's forward pass; :func:`~pause_megatron.model.compilation.compile_layers` compiles it."""

    def forward(self, hidden_states: torch.Tensor, **others: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map the residual stream ``[S, B, H]`` to the next layer's; also return Megatron-core's unused context."""
        if not torch.is_grad_enabled():
            hidden_states = hidden_states.detach()
        given = {name: value for name, value in others.items() if value is not None}
        output, context = self.compute(hidden_states, **given)
        return output, context

    def train(self, mode: bool = True) -> "Layer":
        """Stay in training mode, which computes the same as evaluation because nothing is dropped out.

        In evaluation Megatron-core adds the residual stream in place, to a view, which ``torch.compile`` cannot trace.
        """
        super().train(True)
        return self


class RecomputedMLP(MLP):
    """MLP that saves only its input, and computes its activations again in the backward pass.

    Megatron-core's own ``recompute_modules=["mlp"]`` returns the bias (a parameter) from an autograd function, which
    makes the function the bias's producer; its backward pass then calls itself without end.
    """

    def forward(self, hidden_states: torch.Tensor, **others: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map ``[S, B, H]`` to ``[S, B, H]``; also return the bias if the caller must still add it, otherwise None."""
        output, bias = checkpoint(
            super().forward, hidden_states, use_reentrant=False, preserve_rng_state=False, **others
        )
        return output, bias
