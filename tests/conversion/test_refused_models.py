"""Models that are not supported are refused with the setting or file that is the reason, and leave no folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.conversion import ConvertFromHfConfig
from pause_megatron.conversion.from_hf import convert_from_hf
from pause_megatron.errors import UserError
from tests.conversion.conftest import LLAMA3_ROPE


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("llama", {"attention_bias": True}, "config.json: attention_bias True; give another model, or finetune"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "type 'linear'"),
        ("llama", {"model_type": "gpt_neox"}, "attention and MLP in parallel"),
        ("llama", {"model_type": "opt"}, "unsupported model_type 'opt'; give a GPT-2, Llama, Qwen2 or Qwen3"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rotary embeddings of type 'yarn'"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "type 'dynamic'"),
        ("llama3", {"rope_scaling": {**LLAMA3_ROPE, "factor": 2.0}}, "rope_scaling that differs from rope_parameters"),
        ("llama3", {"original_max_position_embeddings": 32}, "original_max_position_embeddings 32, but 20 in rope"),
        ("llama3", {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 1e4, "factor": 0.5}}, "--rope-scaling-factor 0.5"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "use_sliding_window True"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "layer_types other than full_attention"),
        ("qwen3", {"attention_bias": True}, "attention_bias True"),
        ("llama", {"model_type": "gemma2"}, "finetune --add-pause"),
        ("llama", {"rope_theta": 10_000.0}, "rope_theta 10000.0, but 500000.0 in rope_parameters"),
        ("llama", {"num_hidden_layers": 10**6}, "1000000 layers, but only 30 tensors in the safetensors files"),
        ("llama", {"num_hidden_layers": 4}, "no tensor model.layers.3.self_attn.q_proj.weight in its safetensors"),
        ("llama", {"intermediate_size": 64}, r"gate_proj.weight has shape \[48, 32\], but by config.json \[64, 32\]"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "config.json: quantization_config means"),
        ("llama", {"compression_config": {"format": "pack-quantized"}}, "config.json: compression_config means"),
        ("gpt2", {"transformers_weights": "other.safetensors"}, "config.json: transformers_weights means"),
        ("gpt2", {"n_head": 0}, "--num-attention-heads 0: must be at least 1"),
        ("llama", {"num_attention_heads": 0}, "config.json: "),
        ("llama", {"hidden_size": "wide"}, "config.json: transformers cannot read it"),
        ("gpt2", {"activation_function": "relu"}, "activation_function 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_unsupported_models_are_refused(
    foreign: Callable[..., Path], name: str, change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(foreign(name), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=complaint):
        convert_from_hf(ConvertFromHfConfig(model=folder, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_refused(foreign: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(foreign("llama"), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model.safetensors or .*, and pickled weights are not supported"):
        convert_from_hf(ConvertFromHfConfig(model=folder, output=tmp_path / "out"))
