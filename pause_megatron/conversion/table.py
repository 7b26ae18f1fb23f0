"""Table of parameter names and layouts in Megatron-core and Hugging Face, used in both directions."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.layouts import (
    FusedQkv,
    GateAndUp,
    Same,
    SplitQkv,
    TensorLayout,
    Transposed,
    VocabularyRows,
)
from pause_megatron.model.parameters import OUTPUT_LAYER, POSITION_EMBEDDINGS, WORD_EMBEDDINGS


@dataclass(frozen=True)
class ParameterMapping:
    """One Megatron-core parameter, its Hugging Face parameters, and the layout that converts between them.

    ``{layer}`` in a name is the index of the layer, from 0 in both. For example, layer 0 of Llama maps
    ``decoder.layers.0.mlp.linear_fc1.weight`` to ``model.layers.0.mlp.gate_proj.weight`` and ``...up_proj.weight``.
    """

    megatron: str
    hf: tuple[str, ...]
    layout: TensorLayout
    setting: str = ""
    """Setting of :class:`ModelConfig` without which the parameter does not exist; empty: it always exists."""


_P = ParameterMapping
_LAYER, _H, _L = "decoder.layers.{layer}.", "transformer.h.{layer}.", "model.layers.{layer}."
_Q, _K, _V = (f"{_L}self_attn.{letter}_proj." for letter in "qkv")
_UNTIED = "untie_embeddings_and_output_weights"

GPT2_PARAMETERS = (
    _P(WORD_EMBEDDINGS, ("transformer.wte.weight",), VocabularyRows()),
    _P(POSITION_EMBEDDINGS, ("transformer.wpe.weight",), Same()),
    _P(_LAYER + "input_layernorm.weight", (_H + "ln_1.weight",), Same()),
    _P(_LAYER + "input_layernorm.bias", (_H + "ln_1.bias",), Same()),
    _P(_LAYER + "self_attention.linear_qkv.weight", (_H + "attn.c_attn.weight",), FusedQkv()),
    _P(_LAYER + "self_attention.linear_qkv.bias", (_H + "attn.c_attn.bias",), FusedQkv()),
    _P(_LAYER + "self_attention.linear_proj.weight", (_H + "attn.c_proj.weight",), Transposed()),
    _P(_LAYER + "self_attention.linear_proj.bias", (_H + "attn.c_proj.bias",), Same()),
    _P(_LAYER + "pre_mlp_layernorm.weight", (_H + "ln_2.weight",), Same()),
    _P(_LAYER + "pre_mlp_layernorm.bias", (_H + "ln_2.bias",), Same()),
    _P(_LAYER + "mlp.linear_fc1.weight", (_H + "mlp.c_fc.weight",), Transposed()),
    _P(_LAYER + "mlp.linear_fc1.bias", (_H + "mlp.c_fc.bias",), Same()),
    _P(_LAYER + "mlp.linear_fc2.weight", (_H + "mlp.c_proj.weight",), Transposed()),
    _P(_LAYER + "mlp.linear_fc2.bias", (_H + "mlp.c_proj.bias",), Same()),
    _P("decoder.final_layernorm.weight", ("transformer.ln_f.weight",), Same()),
    _P("decoder.final_layernorm.bias", ("transformer.ln_f.bias",), Same()),
    _P(OUTPUT_LAYER, ("lm_head.weight",), VocabularyRows(), _UNTIED),
)
"""GPT2LMHeadModel, which stores its attention and MLP matrices transposed (Conv1D)."""

LLAMA_PARAMETERS = (
    _P(WORD_EMBEDDINGS, ("model.embed_tokens.weight",), VocabularyRows()),
    _P(_LAYER + "input_layernorm.weight", (_L + "input_layernorm.weight",), Same()),
    _P(_LAYER + "self_attention.linear_qkv.weight", (_Q + "weight", _K + "weight", _V + "weight"), SplitQkv()),
    _P(_LAYER + "self_attention.linear_qkv.bias", (_Q + "bias", _K + "bias", _V + "bias"), SplitQkv(), "add_qkv_bias"),
    _P(_LAYER + "self_attention.q_layernorm.weight", (_L + "self_attn.q_norm.weight",), Same(), "qk_layernorm"),
    _P(_LAYER + "self_attention.k_layernorm.weight", (_L + "self_attn.k_norm.weight",), Same(), "qk_layernorm"),
    _P(_LAYER + "self_attention.linear_proj.weight", (_L + "self_attn.o_proj.weight",), Same()),
    _P(_LAYER + "pre_mlp_layernorm.weight", (_L + "post_attention_layernorm.weight",), Same()),
    _P(_LAYER + "mlp.linear_fc1.weight", (_L + "mlp.gate_proj.weight", _L + "mlp.up_proj.weight"), GateAndUp()),
    _P(_LAYER + "mlp.linear_fc2.weight", (_L + "mlp.down_proj.weight",), Same()),
    _P("decoder.final_layernorm.weight", ("model.norm.weight",), Same()),
    _P(OUTPUT_LAYER, ("lm_head.weight",), VocabularyRows(), _UNTIED),
)
"""LlamaForCausalLM, Qwen2ForCausalLM (with biases) and Qwen3ForCausalLM (with norms of queries and keys).

Both libraries rotate the two halves of a head together, so rotary weights need no permutation.
"""

PARAMETERS = {"gpt2": GPT2_PARAMETERS, "llama": LLAMA_PARAMETERS}


def mappings_of(model: ModelConfig) -> Iterator[ParameterMapping]:
    """Yield the table for ``model``, layer by layer, without parameters that it does not have (a tied output layer)."""
    table = PARAMETERS[model.architecture]
    for per_layer, mappings in itertools.groupby(table, lambda mapping: "{layer}" in mapping.megatron):
        group = list(mappings)
        for layer in range(model.num_layers if per_layer else 1):
            for mapping in group:
                if not mapping.setting or getattr(model, mapping.setting):
                    names = tuple(name.format(layer=layer) for name in mapping.hf)
                    yield replace(mapping, megatron=mapping.megatron.format(layer=layer), hf=names)


def to_hf_state(
    read: Callable[[str], torch.Tensor], model: ModelConfig, vocab_size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the Hugging Face parameters as (name, tensor), one at a time, with ``vocab_size`` vocabulary rows.

    ``read`` returns the unsharded Megatron-core parameter of a name.
    """
    for mapping in mappings_of(model):
        tensors = mapping.layout.to_hf(read(mapping.megatron), model, vocab_size)
        for name, tensor in zip(mapping.hf, tensors, strict=True):
            yield name, tensor.contiguous()


def from_hf_state(
    read: Callable[[str], torch.Tensor], model: ModelConfig, vocab_size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the unsharded Megatron-core parameters as (name, tensor), one at a time, with padded vocabulary rows.

    ``read`` returns the Hugging Face parameter of a name, with ``vocab_size`` vocabulary rows.
    """
    for mapping in mappings_of(model):
        tensor = mapping.layout.from_hf([read(name) for name in mapping.hf], model, vocab_size)
        yield mapping.megatron, tensor.contiguous()
