"""Logits of a Megatron-core model with one layer in memory at a time.

Megatron-core's code runs on a model of a single layer. After each layer, its weights are replaced by the next layer's,
and its output becomes the input. The embeddings and the output layer stay in memory throughout. It computes on the CPU,
and does not use a GPU that the process sees.

Shapes: B sequences, S positions, H hidden size, V vocabulary size, P padded vocabulary size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # registers the backend
from megatron.core import parallel_state

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.model.gpt import LocalModel, build_local_model
from pause_megatron.parallel.groups import destroy_process_groups

ONE_PROCESS = Layout(tp=1, pp=1, vp=1, dp=1, sequence_parallel=False, compile_layers="never")

Read = Callable[[str], torch.Tensor]
"""Returns the unsharded parameter of a name."""


@contextmanager
def megatron_model(model: ModelConfig, vocab_size: int) -> Iterator[LocalModel]:
    """Build ``model`` in Megatron-core on the CPU, not compiled, with the process groups of a single process.

    The groups exist inside the block only. They communicate nothing, also in a process that sees a GPU. gloo would
    start 63 threads with 500 MB of address space for them, and abort or hang under a limit of memory (``ulimit -v``).
    """
    dist.init_process_group("fake", rank=0, world_size=1, store=dist.HashStore())
    try:
        parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
        yield build_local_model(model, ONE_PROCESS, vocab_size=vocab_size, seed=0)
    finally:
        destroy_process_groups()


@torch.no_grad()
def megatron_logits_by_layer(
    read: Read, model: ModelConfig, vocab_size: int, tokens: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits of the Megatron-core model with the weights from ``read``: ``[B, S, V]``, fp32. ``tokens``: ``[B, S]``.

    ``positions`` are the position indices of ``tokens``, ``[B, S]``; None: 0, 1, 2, ...
    """
    positions = torch.arange(tokens.shape[1]).expand_as(tokens) if positions is None else positions
    with megatron_model(replace(model, num_layers=1), vocab_size) as local:
        chunk: Any = local.chunks[0].eval()
        for item in local.parameters:
            if not item.name.startswith(layer_prefix(0)):
                item.parameter.copy_(read(item.name))
        # B tensors [S, 1, H]
        states = [chunk.embedding(ids[None], of_one[None]) for ids, of_one in zip(tokens, positions, strict=True)]
        angles = [_angles(chunk, of_one) if model.architecture == "llama" else None for of_one in positions]
        [layer] = chunk.decoder.layers
        for index in range(model.num_layers):
            for item in local.parameters:
                if item.name.startswith(layer_prefix(0)):
                    item.parameter.copy_(read(item.name.replace(layer_prefix(0), layer_prefix(index))))
            states = [
                layer(state, attention_mask=None, rotary_pos_emb=of_one)[0]
                for state, of_one in zip(states, angles, strict=True)
            ]
        tied = None if model.untie_embeddings_and_output_weights else chunk.shared_embedding_or_output_weight()
        # B tensors [S, 1, P]: Megatron-core puts the sequence first
        logits = [chunk.output_layer(chunk.decoder.final_layernorm(state), weight=tied)[0] for state in states]
    return torch.cat(logits, 1).transpose(0, 1)[..., :vocab_size].float()


def _angles(chunk: Any, positions: torch.Tensor) -> torch.Tensor:
    """Rotary angles of one sequence with the position indices ``positions``, ``[S]``."""
    chunk.rotary_pos_emb.position_ids = positions[None]  # read only if pauses share positions
    angles: torch.Tensor = chunk.rotary_pos_emb(len(positions))
    return angles


def layer_prefix(index: int) -> str:
    """Prefix of the Megatron-core names of a layer's parameters."""
    return f"decoder.layers.{index}."
