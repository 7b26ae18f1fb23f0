"""Hugging Face's configuration of the same model."""

from __future__ import annotations

from transformers import GenerationConfig, GPT2Config, LlamaConfig, PretrainedConfig

from pause_megatron.config.model import ModelConfig


def hf_model_config(model: ModelConfig, *, vocab_size: int, eod_id: int) -> PretrainedConfig:
    """``GPT2Config`` or ``LlamaConfig``; documents end with ``eod_id``, which also starts an empty context."""
    common = {
        "vocab_size": vocab_size,
        "bos_token_id": eod_id,
        "eos_token_id": eod_id,
        "pad_token_id": eod_id,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "initializer_range": model.init_method_std,
    }
    if model.architecture == "gpt2":
        return GPT2Config(
            **common,
            n_positions=model.max_position_embeddings,
            n_embd=model.hidden_size,
            n_layer=model.num_layers,
            n_head=model.num_attention_heads,
            n_inner=model.ffn_size,
            activation_function="gelu",  # the exact one; "gelu_new" is the tanh approximation
            layer_norm_epsilon=model.layernorm_epsilon,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    return LlamaConfig(
        **common,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.query_groups,
        head_dim=model.head_dim,
        max_position_embeddings=model.max_position_embeddings,
        rms_norm_eps=model.layernorm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": float(model.rotary_base)},
        attention_bias=False,
        mlp_bias=False,
    )


def hf_generation_config(*, pause_id: int, eod_id: int) -> GenerationConfig:
    """Generation ends at the end of a document and never emits ``<pause>``."""
    return GenerationConfig(bos_token_id=eod_id, eos_token_id=eod_id, pad_token_id=eod_id, suppress_tokens=[pause_id])
