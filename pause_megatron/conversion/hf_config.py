"""Conversion of model configurations: ``ModelConfig`` to ``GPT2Config`` or ``LlamaConfig``, and back."""

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, GPT2Config, LlamaConfig, PretrainedConfig

from pause_megatron.config.model import ModelConfig
from pause_megatron.errors import UserError

GELU_NAMES = {"exact": "gelu", "tanh": "gelu_new"}
"""``ModelConfig.gelu`` to Hugging Face's ``activation_function``."""


def hf_model_config(model: ModelConfig, *, vocab_size: int, eod_id: int) -> PretrainedConfig:
    """``GPT2Config`` or ``LlamaConfig`` of ``model``. ``eod_id`` ends documents, and also starts an empty context."""
    common = {
        "vocab_size": vocab_size,
        "bos_token_id": eod_id,
        "eos_token_id": eod_id,
        "pad_token_id": eod_id,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "initializer_range": model.init_method_std,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "max_position_embeddings": model.max_position_embeddings,
    }
    if model.architecture == "gpt2":
        return GPT2Config(
            **common,
            n_inner=model.ffn_size,
            activation_function=GELU_NAMES[model.gelu],
            layer_norm_epsilon=model.layernorm_epsilon,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    return LlamaConfig(
        **common,
        intermediate_size=model.ffn_size,
        num_key_value_heads=model.query_groups,
        head_dim=model.head_dim,
        rms_norm_eps=model.layernorm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": float(model.rotary_base)},
        attention_bias=False,
        mlp_bias=False,
    )


def hf_generation_config(*, pause_id: int, eod_id: int) -> GenerationConfig:
    """Settings of generation: it ends at the end-of-document token and never emits ``<pause>``."""
    return GenerationConfig(bos_token_id=eod_id, eos_token_id=eod_id, pad_token_id=eod_id, suppress_tokens=[pause_id])


def model_config_of(config: PretrainedConfig, path: Path) -> ModelConfig:
    """``ModelConfig`` of the Hugging Face ``config`` in the folder ``path``.

    Raises :class:`UserError` that lists the settings which this project's models do not support.
    """
    if config.model_type == "gpt2":
        return _gpt2(config, path)
    if config.model_type == "llama":
        return _llama(config, path)
    problem = f"unsupported model_type {config.model_type!r}"
    if config.model_type == "gpt_neox":
        problem += " (blocks of GPT-NeoX and Pythia compute attention and MLP in parallel, from one input)"
    raise UserError(f"--model {path}: {problem}; give a GPT-2 or Llama model")


def _gpt2(config: Any, path: Path) -> ModelConfig:
    gelus = {name: gelu for gelu, name in GELU_NAMES.items()} | {"gelu_pytorch_tanh": "tanh"}
    _require(
        path,
        (config.activation_function in gelus, f"activation_function {config.activation_function!r}"),
        (config.scale_attn_weights, "scale_attn_weights false"),
        (not config.scale_attn_by_inverse_layer_idx, "scale_attn_by_inverse_layer_idx"),
        (not config.add_cross_attention, "add_cross_attention"),
    )
    return ModelConfig(
        **_common_settings(config),
        architecture="gpt2",
        ffn_hidden_size=config.n_inner or 4 * config.n_embd,
        layernorm_epsilon=config.layer_norm_epsilon,
        gelu=gelus[config.activation_function],  # type: ignore[arg-type]
    )


def _llama(config: Any, path: Path) -> ModelConfig:
    rope = config.rope_parameters
    head_dim = config.hidden_size // config.num_attention_heads
    _require(
        path,
        (config.hidden_act == "silu", f"hidden_act {config.hidden_act!r}"),
        (not config.attention_bias, "attention_bias"),
        (not config.mlp_bias, "mlp_bias"),
        (config.head_dim in (None, head_dim), f"head_dim {config.head_dim}, not {head_dim}"),
        (rope.get("rope_type", "default") == "default", f"rotary embeddings of type {rope.get('rope_type')!r}"),
        (float(rope["rope_theta"]).is_integer(), f"rope_theta {rope['rope_theta']}"),
    )
    return ModelConfig(
        **_common_settings(config),
        architecture="llama",
        num_query_groups=config.num_key_value_heads,
        ffn_hidden_size=config.intermediate_size,
        layernorm_epsilon=config.rms_norm_eps,
        rotary_base=int(rope["rope_theta"]),
    )


def _common_settings(config: Any) -> dict[str, Any]:
    return {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "untie_embeddings_and_output_weights": not config.tie_word_embeddings,
        "init_method_std": config.initializer_range,
    }


def _require(path: Path, *conditions: tuple[bool, str]) -> None:
    unsupported = [setting for is_supported, setting in conditions if not is_supported]
    if unsupported:
        raise UserError(
            f"--model {path}: unsupported settings in config.json: {', '.join(unsupported)}; give another model"
        )
