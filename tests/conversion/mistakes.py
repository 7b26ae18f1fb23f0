"""Random models of every family, and mistakes that a conversion of them could make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PreTrainedModel

Weights = dict[str, torch.Tensor]
Mistake = Callable[[Any, Weights], None]
"""Changes a configuration of transformers, or its weights, in place."""

VOCAB_SIZE, PAUSE_ID, CONTEXT = 250, 2, 1024
GPT2_NAMES = {
    "first": "transformer.h.0.",
    "second": "transformer.h.1.",
    "last": "transformer.h.3.",
    "qkv": "attn.c_attn.",
    "out": "attn.c_proj.",
    "up": "mlp.c_fc.",
    "down": "mlp.c_proj.",
    "norm": "ln_1.",
    "other norm": "ln_2.",
    "final": "transformer.ln_f.",
    "tokens": "transformer.wte.weight",
}
LLAMA_NAMES = {
    "first": "model.layers.0.",
    "second": "model.layers.1.",
    "last": "model.layers.3.",
    "q": "self_attn.q_proj.",
    "k": "self_attn.k_proj.",
    "v": "self_attn.v_proj.",
    "out": "self_attn.o_proj.",
    "gate": "mlp.gate_proj.",
    "up": "mlp.up_proj.",
    "down": "mlp.down_proj.",
    "norm": "input_layernorm.",
    "other norm": "post_attention_layernorm.",
    "final": "model.norm.",
    "tokens": "model.embed_tokens.weight",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
HEADS, GROUPS, WIDTH = 8, 4, 64
FAMILIES = ("gpt2", "gpt2, tied", "llama", "llama, tied", "llama3", "qwen2", "qwen3")


def random_model(family: str) -> PreTrainedModel:
    """A random model whose activations neither vanish nor saturate: a weight's deviation is near 1 / sqrt(width)."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.1, "tie_word_embeddings": family.endswith("tied")}
    name = family.partition(",")[0]
    if name == "gpt2":
        config: Any = GPT2Config(n_positions=CONTEXT, n_embd=WIDTH, n_layer=4, n_head=HEADS, **common)
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0  # those of training
    else:
        sizes = {"hidden_size": WIDTH, "intermediate_size": 176, "num_hidden_layers": 4, "num_attention_heads": HEADS}
        rope = {"rope_type": "default", "rope_theta": 500_000.0} | (LLAMA3_ROPE if name == "llama3" else {})
        config = AutoConfig.for_model(
            "llama" if name == "llama3" else name,
            **(sizes | common),
            num_key_value_heads=GROUPS,
            max_position_embeddings=CONTEXT,
            rope_parameters=rope,
            **({"head_dim": 12} if name == "qwen3" else {}),
        )
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name or ".ln_" in name:  # transformers starts them all at 0 and 1
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def mistakes_of(family: str) -> dict[str, Mistake]:
    """The mistakes that are possible in a ``family``, by description."""
    name = family.partition(",")[0]
    found = _in_every_family(GPT2_NAMES if name == "gpt2" else LLAMA_NAMES)
    found |= _in_gpt2(GPT2_NAMES) if name == "gpt2" else _in_llama(LLAMA_NAMES)
    if name == "llama3":
        found |= _of_scaling()
    if name == "qwen2":
        found |= _of_qwen2(LLAMA_NAMES)
    if name == "qwen3":
        found |= _of_qwen3(LLAMA_NAMES)
    if not family.endswith("tied"):
        tokens = (GPT2_NAMES if name == "gpt2" else LLAMA_NAMES)["tokens"]
        found["output layer of a tied model"] = _copy("lm_head.weight", tokens)
        found["output layer: two rows exchanged"] = _change("lm_head.weight", _swap_rows)
    return found


def _in_every_family(n: dict[str, str]) -> dict[str, Mistake]:
    first, second, last = n["first"], n["second"], n["last"]
    found: dict[str, Mistake] = {
        "two layers exchanged": _exchange_layers(first, second),
        "norms of a layer exchanged": _exchange(first + n["norm"] + "weight", first + n["other norm"] + "weight"),
        "final norm missing": _change(n["final"] + "weight", torch.ones_like),
        "norm: one element": _change(last + n["norm"] + "weight", _one_element),
        "final norm: one element": _change(n["final"] + "weight", _one_element),
        "embedding of a token": _change(n["tokens"], _last_row),
        "embeddings of two tokens exchanged": _change(n["tokens"], _swap_rows),
    }
    for key in [key for key in ("qkv", "q", "k", "v", "out", "gate", "up", "down") if key in n]:
        weight = last + n[key] + "weight"  # changes of the last layer have the smallest effect
        found |= {
            f"{key}: rounded to bf16": _change(weight, lambda tensor: tensor.bfloat16().float()),
            f"{key}: one element": _change(weight, _one_element),
            f"{key}: one row": _change(weight, _one_row),
            f"{key}: one column": _change(weight, lambda tensor: _one_row(tensor.t()).t()),
            f"{key}: two rows exchanged": _change(weight, _swap_rows),
            f"{key}: two columns exchanged": _change(weight, lambda tensor: _swap_rows(tensor.t()).t()),
            f"{key} of two layers exchanged": _exchange(first + n[key] + "weight", second + n[key] + "weight"),
        }
    return found


def _in_gpt2(n: dict[str, str]) -> dict[str, Mistake]:
    first = n["first"]
    qkv = first + n["qkv"]
    found: dict[str, Mistake] = {
        "norm epsilon 1e-6": _set(layer_norm_epsilon=1e-6),
        "activation gelu": _set(activation_function="gelu"),
        "activation silu": _set(activation_function="silu"),
        "attention without its scale": _set(scale_attn_weights=False),
        "attention scaled by layer": _set(scale_attn_by_inverse_layer_idx=True),
        "qkv by heads": _change(qkv + "weight", _by_heads),
        "qkv bias by heads": _change(qkv + "bias", _by_heads),
        "two heads exchanged": _change(qkv + "weight", lambda tensor: _swap_heads(tensor.t(), 3 * HEADS).t()),
        "out not transposed": _change(first + n["out"] + "weight", torch.t),
        "last position": _change("transformer.wpe.weight", _last_row),
        "positions shifted by one": _change("transformer.wpe.weight", lambda tensor: tensor.roll(1, 0)),
        "final norm without its bias": _change(n["final"] + "bias", torch.zeros_like),
    }
    for key in ("qkv", "out", "up", "down", "norm", "other norm"):
        found[f"bias of {key}: missing"] = _change(n["last"] + n[key] + "bias", torch.zeros_like)
        # Of the last value: a key's bias adds the same to all scores of a query, and computes nothing
        found[f"bias of {key}: one element"] = _change(n["last"] + n[key] + "bias", _last_row)
    return found


def _in_llama(n: dict[str, str]) -> dict[str, Mistake]:
    first = n["first"]
    return {
        "norm epsilon 1e-5": _set(rms_norm_eps=1e-5),
        "norm epsilon 1e-8": _set(rms_norm_eps=1e-8),
        "activation gelu": _set(hidden_act="gelu"),
        "rotary base 10,000": _set_rope(rope_theta=1e4),
        "rotary base 510,000": _set_rope(rope_theta=5.1e5),
        "rotary base 500,100": _set_rope(rope_theta=5.001e5),
        "rotary scaled linearly": _set_rope(rope_type="linear", factor=2.0),
        "rotary scaled dynamically": _set_rope(rope_type="dynamic", factor=2.0),
        "pairs rotated next to each other": _change(first + n["q"] + "weight", _interleaved),
        "two query heads exchanged": _change(first + n["q"] + "weight", lambda tensor: _swap_heads(tensor, HEADS)),
        "two key heads exchanged": _change(first + n["k"] + "weight", lambda tensor: _swap_heads(tensor, GROUPS)),
        "two value heads exchanged": _change(first + n["v"] + "weight", lambda tensor: _swap_heads(tensor, GROUPS)),
        "keys and values exchanged": _exchange(first + n["k"] + "weight", first + n["v"] + "weight"),
        "gate and up exchanged": _exchange(first + n["gate"] + "weight", first + n["up"] + "weight"),
    }


def _of_scaling() -> dict[str, Mistake]:
    return {
        "rotary without scaling": _set_rope(rope_type="default"),
        "rotary scaling factor 8": _set_rope(factor=8.0),
        "rotary scaling: low factor 2": _set_rope(low_freq_factor=2.0),
        "rotary scaling: high factor 8": _set_rope(high_freq_factor=8.0),
        "rotary scaling: original context 512": _set_rope(original_max_position_embeddings=512),
    }


def _of_qwen2(n: dict[str, str]) -> dict[str, Mistake]:
    found: dict[str, Mistake] = {
        f"sliding window of {window} tokens": _set(
            use_sliding_window=True, sliding_window=window, max_window_layers=0, layer_types=["sliding_attention"] * 4
        )
        for window in (8, 256)
    }
    for key in "qkv":
        bias = n["first"] + n[key] + "bias"
        found[f"bias of {key}: missing"] = _change(bias, torch.zeros_like)
        found[f"bias of {key}: one element"] = _change(bias, _one_element)
    found["bias of k and v exchanged"] = _exchange(n["first"] + n["k"] + "bias", n["first"] + n["v"] + "bias")
    return found


def _of_qwen3(n: dict[str, str]) -> dict[str, Mistake]:
    norms = [f"{n['first']}self_attn.{letter}_norm.weight" for letter in "qk"]
    return {
        "norms of queries and keys exchanged": _exchange(*norms),
        "norm of queries missing": _change(norms[0], torch.ones_like),
        "norm of keys: one element": _change(norms[1], _one_element),
    }


def _set(**values: Any) -> Mistake:
    def change(config: Any, weights: Weights) -> None:
        for name, value in values.items():
            setattr(config, name, value)

    return change


def _set_rope(**values: Any) -> Mistake:
    return lambda config, weights: config.rope_parameters.update(values)


def _change(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Mistake:
    return lambda config, weights: weights.update({name: change(weights[name])})


def _copy(name: str, source: str) -> Mistake:
    return lambda config, weights: weights.update({name: weights[source]})


def _exchange(one: str, other: str) -> Mistake:
    return lambda config, weights: weights.update({one: weights[other], other: weights[one]})


def _layer(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _exchange_layers(one: str, other: str) -> Mistake:
    def exchange(config: Any, weights: Weights) -> None:
        layers = [_layer(weights, prefix) for prefix in (other, one)]
        for prefix, layer in zip((one, other), layers, strict=True):
            weights.update({prefix + name: tensor for name, tensor in layer.items()})

    return exchange


def _one_element(tensor: torch.Tensor) -> torch.Tensor:
    """Change the middle element by a tenth of the usual size of a weight."""
    changed = tensor.clone()
    changed.view(-1)[changed.numel() // 2] += 1e-2
    return changed


def _one_row(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed[len(changed) // 2] *= 1.1
    return changed


def _last_row(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed[-1] += 1e-2
    return changed


def _swap_rows(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed[[0, 1]] = changed[[1, 0]]
    return changed


def _swap_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Exchange the first two of ``heads`` heads, ``[heads * head size, hidden size]``."""
    width = len(tensor) // heads
    return torch.cat([tensor[width : 2 * width], tensor[:width], tensor[2 * width :]])


def _by_heads(tensor: torch.Tensor) -> torch.Tensor:
    """Queries, key and value of one head after the other, in place of all queries, all keys and all values."""
    return tensor.unflatten(-1, (3, HEADS, -1)).transpose(-3, -2).flatten(-3)


def _interleaved(tensor: torch.Tensor) -> torch.Tensor:
    """Reorder each head for a rotation of neighbours, in place of the two halves."""
    heads = tensor.unflatten(0, (HEADS, 2, -1))  # [heads, 2, head size / 2, hidden size]
    return heads.transpose(1, 2).flatten(0, 2)
