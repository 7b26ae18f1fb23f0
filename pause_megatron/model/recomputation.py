"""Selective recomputation: the MLPs are computed again in the backward pass instead of keeping their activations.

Attention is not worth it: the fused one keeps no matrix of scores.
"""

from __future__ import annotations

from functools import partial

from megatron.core.models.gpt import GPTModel
from torch.utils.checkpoint import checkpoint


def recompute_mlps(chunk: GPTModel) -> None:
    """Let every MLP of ``chunk`` keep its input only.

    Megatron-core's own way (``recompute_modules=["mlp"]``) returns the bias, a parameter, from an autograd function,
    which thereby makes itself the bias's origin and in the backward pass calls itself without end.
    """
    for layer in chunk.decoder.layers:
        layer.mlp.forward = partial(checkpoint, layer.mlp.forward, use_reentrant=False, preserve_rng_state=False)
