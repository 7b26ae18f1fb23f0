"""Real models of this rank, for tests that compare formulas with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from megatron.core import parallel_state

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.model.gpt import LocalModel, build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch

VOCAB_SIZE = 250
GPT2 = ModelConfig(num_layers=4, hidden_size=64, num_attention_heads=8, max_position_embeddings=64)
LLAMA = replace(GPT2, architecture="llama", num_query_groups=4, ffn_hidden_size=192)
MODELS = {
    "gpt2": GPT2,
    "gpt2, tied": replace(GPT2, untie_embeddings_and_output_weights=False),
    "gpt2, grouped queries": replace(GPT2, num_query_groups=2),
    "llama": LLAMA,
    "llama, tied, no groups": replace(LLAMA, untie_embeddings_and_output_weights=False, num_query_groups=0),
    "llama, biases": replace(LLAMA, add_qkv_bias=True, use_rope_scaling=True),
    "llama, norms of wide heads": replace(LLAMA, qk_layernorm=True, kv_channels=24),
    "llama, norms, one group": replace(LLAMA, qk_layernorm=True, num_query_groups=2, kv_channels=4),
    "llama, norms, no groups": replace(LLAMA, qk_layernorm=True, num_query_groups=0),
}


def layout(*, tp: int = 1, pp: int = 1, vp: int = 1, dp: int = 1, **others: object) -> Layout:
    """A layout of the given sizes, by default without sequence parallelism."""
    return Layout(**{"tp": tp, "pp": pp, "vp": vp, "dp": dp, "sequence_parallel": False, **others})  # type: ignore[arg-type]


def of_layouts(layouts: Iterable[Layout]) -> Iterator[Layout]:
    """Yield each of ``layouts`` with its process groups initialized; destroy them at the end."""
    try:
        for each in layouts:
            initialize_process_groups(detect_launch(), each, seed=0)
            yield each
            parallel_state.destroy_model_parallel()
    finally:
        destroy_process_groups()


def local_model(model: ModelConfig, layout: Layout, dtype: torch.dtype = torch.float32) -> LocalModel:
    """This rank's part of ``model`` in ``dtype``; the process groups of ``layout`` must exist."""
    built = build_local_model(model, layout, vocab_size=VOCAB_SIZE, seed=0, dtype=dtype)
    for chunk in built.chunks:
        chunk.to(dtype)
    return built


def random_tokens(sequences: int, seq_length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, their positions and labels, each ``[sequences, seq_length]``."""
    tokens = torch.randint(0, VOCAB_SIZE, (sequences, seq_length))
    return tokens, torch.arange(seq_length).expand(sequences, -1).contiguous(), tokens.roll(-1, 1).contiguous()
