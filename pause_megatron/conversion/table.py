"""The table of names and layouts between Megatron-core and Hugging Face; one table for both directions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
from pause_megatron.model.parameters import OUTPUT_LAYER, WORD_EMBEDDINGS


@dataclass(frozen=True)
class Row:
    """One parameter: its name here, its name or names there, and the layout between them.

    ``{layer}`` stands for the layer's index, from 0 in both worlds.
    """

    megatron: str
    hf: tuple[str, ...]
    layout: TensorLayout


_LAYER, _H, _L = "decoder.layers.{layer}.", "transformer.h.{layer}.", "model.layers.{layer}."

GPT2_ROWS = (
    Row(WORD_EMBEDDINGS, ("transformer.wte.weight",), VocabularyRows()),
    Row("embedding.position_embeddings.weight", ("transformer.wpe.weight",), Same()),
    Row(_LAYER + "input_layernorm.weight", (_H + "ln_1.weight",), Same()),
    Row(_LAYER + "input_layernorm.bias", (_H + "ln_1.bias",), Same()),
    Row(_LAYER + "self_attention.linear_qkv.weight", (_H + "attn.c_attn.weight",), FusedQkv()),
    Row(_LAYER + "self_attention.linear_qkv.bias", (_H + "attn.c_attn.bias",), FusedQkv()),
    Row(_LAYER + "self_attention.linear_proj.weight", (_H + "attn.c_proj.weight",), Transposed()),
    Row(_LAYER + "self_attention.linear_proj.bias", (_H + "attn.c_proj.bias",), Same()),
    Row(_LAYER + "pre_mlp_layernorm.weight", (_H + "ln_2.weight",), Same()),
    Row(_LAYER + "pre_mlp_layernorm.bias", (_H + "ln_2.bias",), Same()),
    Row(_LAYER + "mlp.linear_fc1.weight", (_H + "mlp.c_fc.weight",), Transposed()),
    Row(_LAYER + "mlp.linear_fc1.bias", (_H + "mlp.c_fc.bias",), Same()),
    Row(_LAYER + "mlp.linear_fc2.weight", (_H + "mlp.c_proj.weight",), Transposed()),
    Row(_LAYER + "mlp.linear_fc2.bias", (_H + "mlp.c_proj.bias",), Same()),
    Row("decoder.final_layernorm.weight", ("transformer.ln_f.weight",), Same()),
    Row("decoder.final_layernorm.bias", ("transformer.ln_f.bias",), Same()),
    Row(OUTPUT_LAYER, ("lm_head.weight",), VocabularyRows()),
)
"""GPT2LMHeadModel; its attention and MLP matrices are Conv1D, stored transposed."""

LLAMA_ROWS = (
    Row(WORD_EMBEDDINGS, ("model.embed_tokens.weight",), VocabularyRows()),
    Row(_LAYER + "input_layernorm.weight", (_L + "input_layernorm.weight",), Same()),
    Row(
        _LAYER + "self_attention.linear_qkv.weight",
        (_L + "self_attn.q_proj.weight", _L + "self_attn.k_proj.weight", _L + "self_attn.v_proj.weight"),
        SplitQkv(),
    ),
    Row(_LAYER + "self_attention.linear_proj.weight", (_L + "self_attn.o_proj.weight",), Same()),
    Row(_LAYER + "pre_mlp_layernorm.weight", (_L + "post_attention_layernorm.weight",), Same()),
    Row(
        _LAYER + "mlp.linear_fc1.weight",
        (_L + "mlp.gate_proj.weight", _L + "mlp.up_proj.weight"),
        GateAndUp(),
    ),
    Row(_LAYER + "mlp.linear_fc2.weight", (_L + "mlp.down_proj.weight",), Same()),
    Row("decoder.final_layernorm.weight", ("model.norm.weight",), Same()),
    Row(OUTPUT_LAYER, ("lm_head.weight",), VocabularyRows()),
)
"""LlamaForCausalLM; both worlds rotate the two halves of a head, so rotary embeddings need no permutation."""

ROWS = {"gpt2": GPT2_ROWS, "llama": LLAMA_ROWS}


def rows_of(model: ModelConfig) -> Iterator[Row]:
    """The table for ``model``, layer by layer, without the output layer where it is tied to the embeddings."""
    for repeated, rows in itertools.groupby(ROWS[model.architecture], lambda row: "{layer}" in row.megatron):
        once = list(rows)
        for layer in range(model.num_layers if repeated else 1):
            for row in once:
                if row.megatron != OUTPUT_LAYER or model.untie_embeddings_and_output_weights:
                    names = tuple(name.format(layer=layer) for name in row.hf)
                    yield Row(row.megatron.format(layer=layer), names, row.layout)


def to_hf_state(
    read: Callable[[str], torch.Tensor], model: ModelConfig, vocab_size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Hugging Face's parameters, one by one.

    Args:
        read: gives a Megatron-core parameter of the whole model by its name.
        model: sizes.
        vocab_size: rows that are kept.
    """
    for row in rows_of(model):
        tensors = row.layout.to_hf(read(row.megatron), model, vocab_size)
        for name, tensor in zip(row.hf, tensors, strict=True):
            yield name, tensor.contiguous()


def from_hf_state(
    read: Callable[[str], torch.Tensor], model: ModelConfig, vocab_size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Megatron-core's parameters of the whole model, one by one; ``read`` gives Hugging Face's by name."""
    for row in rows_of(model):
        yield row.megatron, row.layout.from_hf([read(name) for name in row.hf], model, vocab_size).contiguous()
