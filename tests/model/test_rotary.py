"""Rotary frequencies and angles equal those of transformers bit by bit, also beyond the original context."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import hf_model_config
from pause_megatron.conversion.one_layer import megatron_model
from tests.distributed import run_distributed
from tests.training.runs import LLAMA, LLAMA3, VOCAB_SIZE

LLAMA_31 = replace(LLAMA, rotary_base=500_000, kv_channels=128, use_rope_scaling=True, max_position_embeddings=131_072)
LLAMA_32 = replace(LLAMA_31, kv_channels=64, rope_scaling_factor=32.0)
MODELS = {"not scaled": LLAMA, "small": LLAMA3, "Llama 3.1": LLAMA_31, "Llama 3.2": LLAMA_32}


def angles(models: list[ModelConfig]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Frequencies and the angles of the first 20,000 positions, ``[20_000, head_dim]``."""
    found = []
    for model in models:
        with megatron_model(replace(model, num_layers=1), VOCAB_SIZE) as local:
            rotary = local.chunks[0].rotary_pos_emb
            rotary.position_ids = torch.arange(20_000)[None]
            found.append((rotary.inv_freq.numpy().copy(), rotary(20_000)[:, 0, 0].numpy().copy()))
    return found


def test_angles_are_those_of_transformers() -> None:
    [found] = run_distributed(angles, 1, list(MODELS.values()))
    positions = torch.arange(20_000)[None]
    for (name, model), (frequencies, of_positions) in zip(MODELS.items(), found, strict=True):
        hf = LlamaRotaryEmbedding(hf_model_config(model, vocab_size=VOCAB_SIZE, eod_id=0))
        assert torch.equal(torch.from_numpy(frequencies), hf.inv_freq), name
        cos, sin = hf(torch.zeros(1), positions)
        assert torch.equal(torch.from_numpy(of_positions).cos(), cos[0]), name
        assert torch.equal(torch.from_numpy(of_positions).sin(), sin[0]), name


@pytest.mark.parametrize("model", [LLAMA3, LLAMA_31, LLAMA_32], ids=["small", "Llama 3.1", "Llama 3.2"])
def test_scaling_has_all_three_ranges(model: ModelConfig) -> None:
    """Frequencies that stay, that are divided, and that are interpolated: the comparison above sees each."""
    [found] = run_distributed(
        angles, 1, [model, replace(LLAMA, rotary_base=model.rotary_base, kv_channels=model.kv_channels)]
    )
    (scaled, _), (plain, _) = found
    ratio = torch.from_numpy(plain) / torch.from_numpy(scaled)
    factor = model.rope_scaling_factor
    assert (ratio == 1).any()
    assert (ratio == factor).any()
    assert ((ratio > 1.01) & (ratio < 0.99 * factor)).any()
