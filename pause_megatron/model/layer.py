"""Megatron-core's transformer layer, MLP and rotary angles, changed so that they compile once and run on any device."""

from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
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


class RotaryAngles(RotaryEmbedding):
    """Rotary angles in fp32, on the device of the model; Megatron-core's own are on the GPU wherever there is one."""

    inv_freq: torch.Tensor
    marker: torch.Tensor

    def get_emb(self, max_seq_len: int, offset: int = 0) -> torch.Tensor:
        """Return the angle of every position and feature, fp32 ``[max_seq_len, 1, 1, head_dim]``."""
        self.inv_freq = self.inv_freq.to(self.marker.device)
        angles = self.get_freqs_non_repeated(max_seq_len, offset)  # [max_seq_len, head_dim / 2]
        return torch.cat((angles, angles), dim=-1)[:, None, None, :]


class AnglesOfPositions(RotaryAngles):
    """Rotary angles of given position indices: Megatron-core's are those of 0, 1, 2, ... for every sequence.

    Set :attr:`position_ids` before each forward pass.
    """

    position_ids: torch.Tensor
    """Position index of each token, int64 ``[B, S]``, with all of the sequence also under sequence parallelism."""

    def forward(self, max_seq_len: int, *_: Any, **__: Any) -> torch.Tensor:
        """Return the angle of every token and feature, fp32 ``[S, B, 1, head_dim]``; ``max_seq_len`` is S."""
        assert self.position_ids.shape[1] == max_seq_len
        table = self.get_emb(max_seq_len)[:, 0, 0]  # [S, head_dim]; an index is below S, since pauses only share
        return table[self.position_ids.t().to(table.device)][:, :, None]  # [S, B] -> [S, B, 1, head_dim]


def keep_on_the_models_device(rotary: RotaryEmbedding, *, shares_positions: bool) -> None:
    """Change ``rotary`` to :class:`RotaryAngles`, or with ``shares_positions`` to :class:`AnglesOfPositions`."""
    # An empty buffer moves with the weights. The frequencies themselves are no buffer, which would become bf16 too.
    rotary.register_buffer("marker", torch.empty(0, dtype=torch.bool), persistent=False)
    rotary.__class__ = AnglesOfPositions if shares_positions else RotaryAngles
