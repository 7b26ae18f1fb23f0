"""Settings of a model: those of another block and those that count for nothing are refused with their flag."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError

LLAMA = ModelConfig(architecture="llama", num_layers=4, hidden_size=64, num_attention_heads=8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "gpt2", "qk_layernorm": True}, "--qk-layernorm: needs --architecture llama, not gpt2"),
        ({"architecture": "gpt2", "add_qkv_bias": True}, "--add-qkv-bias: needs --architecture llama"),
        ({"architecture": "gpt2", "kv_channels": 8}, "--kv-channels: needs --architecture llama"),
        ({"architecture": "gpt2", "use_rope_scaling": True}, "--use-rope-scaling: needs --architecture llama"),
        ({"qk_layernorm": True, "add_qkv_bias": True}, "--add-qkv-bias and --qk-layernorm: no model"),
        ({"kv_channels": 7}, "--kv-channels 7: heads of width 7 cannot be rotated; give an even width"),
        ({"kv_channels": -2}, "--kv-channels -2: must be at least 0"),
        ({"hidden_size": 24}, "--hidden-size 24: heads of width 3 cannot be rotated"),
        ({"hidden_size": 60}, "--hidden-size 60 is not a multiple of --num-attention-heads 8"),
        ({"hidden_size": 60, "kv_channels": 8}, "--hidden-size 60 is not a multiple of --num-attention-heads 8"),
        ({"rope_scaling_factor": 4.0}, "--rope-scaling-factor 4: needs --use-rope-scaling; add it"),
        ({"rope_original_max_position_embeddings": 64}, "--rope-original-max-position-embeddings 64: needs"),
        ({"use_rope_scaling": True, "rope_scaling_factor": 0.5}, "--rope-scaling-factor 0.5: must be at least 1"),
        ({"use_rope_scaling": True, "rope_low_freq_factor": 0.0}, "--rope-low-freq-factor 0.0: must be positive"),
        ({"use_rope_scaling": True, "rope_low_freq_factor": 4.0}, "--rope-high-freq-factor 4: must be above"),
    ],
)
def test_setting_without_its_meaning_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(LLAMA, **settings)


def test_width_of_heads_need_not_divide_the_hidden_size_of_a_qwen() -> None:
    assert replace(LLAMA, hidden_size=60, kv_channels=12, qk_layernorm=True).query_size == 96


PUBLISHED = {
    "Llama 3.2 1B": (
        ModelConfig(
            architecture="llama",
            num_layers=16,
            hidden_size=2048,
            num_attention_heads=32,
            num_query_groups=8,
            ffn_hidden_size=8192,
            untie_embeddings_and_output_weights=False,
            use_rope_scaling=True,
        ),
        128_256,
        1_235_814_400,
    ),
    "Qwen2.5 0.5B": (
        ModelConfig(
            architecture="llama",
            num_layers=24,
            hidden_size=896,
            num_attention_heads=14,
            num_query_groups=2,
            ffn_hidden_size=4864,
            untie_embeddings_and_output_weights=False,
            add_qkv_bias=True,
        ),
        151_936,
        494_032_768,
    ),
    "Qwen3 0.6B": (
        ModelConfig(
            architecture="llama",
            num_layers=28,
            hidden_size=1024,
            num_attention_heads=16,
            num_query_groups=8,
            kv_channels=128,
            ffn_hidden_size=3072,
            untie_embeddings_and_output_weights=False,
            qk_layernorm=True,
        ),
        151_936,
        596_049_920,
    ),
}
"""Sizes of a published model, rows of its vocabulary, and its number of parameters."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_published_models(name: str) -> None:
    model, rows, parameters = PUBLISHED[name]
    assert model.num_parameters(rows) == parameters


def test_a_model_of_an_older_version_is_the_same() -> None:
    added = {"kv_channels", "add_qkv_bias", "qk_layernorm", "use_rope_scaling"} | {
        name for name in to_plain(LLAMA) if name.startswith("rope_")
    }
    assert len(added) == 8
    assert ModelConfig(**{name: value for name, value in to_plain(LLAMA).items() if name not in added}) == LLAMA
