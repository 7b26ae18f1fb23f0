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
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.groups import destroy_process_groups

ONE_PROCESS = Layout(tp=1, pp=1, vp=1, dp=1, sequence_parallel=False, compile_layers="never")

Read = Callable[[str], torch.Tensor]
"""Returns the unsharded parameter of a name."""


@contextmanager
def megatron_model(model: ModelConfig, vocab_size: int) -> Iterator[LocalModel]:
    """Build ``model`` in Megatron-core on the CPU, not compiled, with the process groups of a single process.

    Its weights are undefined until :func:`set_weights`. It takes the position indices of its input, as transformers
    does, also if pauses do not share positions.

    The groups exist inside the block only. They communicate nothing, also in a process that sees a GPU. gloo would
    start 63 threads with 500 MB of address space for them, and abort or hang under a limit of memory (``ulimit -v``).
    """
    dist.init_process_group("fake", rank=0, world_size=1, store=dist.HashStore())
    try:
        parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
        local = build_local_model(model, ONE_PROCESS, vocab_size=vocab_size, seed=None)
        chunk: Any = local.chunks[0]
        chunk.use_any_positions()
        yield local
    finally:
        destroy_process_groups()


def set_weights(item: NamedParameter, tensor: torch.Tensor) -> None:
    """Make ``tensor`` the weights of a parameter, without a copy if it is in fp32, for example in a mapped file."""
    assert tensor.shape == item.parameter.shape, (item.name, tensor.shape, item.parameter.shape)
    item.parameter.data = tensor.to(item.parameter.dtype)


@torch.no_grad()
def megatron_logits_by_layer(
    read: Read, model: ModelConfig, vocab_size: int, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Logits of the Megatron-core model with the weights from ``read``: ``[B, S, V]``, fp32.

    ``tokens`` and their position indices ``positions``: ``[B, S]``.
    """
    with megatron_model(replace(model, num_layers=1), vocab_size) as local:
        chunk: Any = local.chunks[0].eval()
        for item in local.parameters:
            if not item.name.startswith(layer_prefix(0)):
                set_weights(item, read(item.name))
        states = chunk.embedding(tokens, positions)  # [S, B, H]: Megatron-core puts the sequence first
        angles = _angles(chunk, positions) if model.architecture == "llama" else None
        [layer] = chunk.decoder.layers
        for index in range(model.num_layers):
            for item in local.parameters:
                if item.name.startswith(layer_prefix(0)):
                    set_weights(item, read(item.name.replace(layer_prefix(0), layer_prefix(index))))
            states = layer(states, attention_mask=None, rotary_pos_emb=angles)[0]
        tied = None if model.untie_embeddings_and_output_weights else chunk.shared_embedding_or_output_weight()
        logits = chunk.output_layer(chunk.decoder.final_layernorm(states), weight=tied)[0]  # [S, B, P]
    return logits.transpose(0, 1)[..., :vocab_size].float()  # type: ignore[no-any-return]


def _angles(chunk: Any, positions: torch.Tensor) -> torch.Tensor:
    """Rotary angles of the position indices ``positions``, ``[B, S]``: ``[S, B, 1, head_dim]``."""
    chunk.rotary_pos_emb.position_ids = positions
    angles: torch.Tensor = chunk.rotary_pos_emb(positions.shape[1])
    return angles


def layer_prefix(index: int) -> str:
    """Prefix of the Megatron-core names of a layer's parameters."""
    return f"decoder.layers.{index}."
