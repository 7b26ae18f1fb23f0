"""Initial weights, a function of the seed and the parameter's name only.

Each parameter of the complete model is drawn from its own generator. One process, tensor-parallel ranks and pipeline
stages therefore start from the same model, and runs are comparable across layouts from their first step. All vocabulary
rows have the same distribution, including the row of ``<pause>``.
"""

import hashlib
import math
from collections.abc import Sequence

import torch

from pause_megatron.model.parameters import NamedParameter

RESIDUAL_PROJECTIONS = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")
"""Matrices that write to the residual stream; scaled down with depth as in GPT-2."""


@torch.no_grad()
def initialize_weights(parameters: Sequence[NamedParameter], *, std: float, num_layers: int, seed: int) -> None:
    """Fill ``parameters``: matrices N(0, std), residual projections N(0, std/sqrt(2*num_layers)), biases 0, norms 1."""
    for parameter in parameters:
        parameter.parameter.copy_(_initial_value(parameter, std=std, num_layers=num_layers, seed=seed))


def _initial_value(parameter: NamedParameter, *, std: float, num_layers: int, seed: int) -> torch.Tensor:
    name, shape = parameter.name, parameter.shard.global_shape
    if len(shape) == 1:
        value = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    else:
        if name.endswith(RESIDUAL_PROJECTIONS):
            std /= math.sqrt(2 * num_layers)
        value = torch.randn(shape, generator=_generator(seed, name)) * std
    return parameter.shard.slice(value)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
