"""Import of model configurations: the settings in ``config.json`` to ``ModelConfig``, or a refusal.

Every setting is converted, computes nothing, or must have the one value that this project's models compute. A setting
that is in none of the tables must have transformers' default. A key that transformers does not know either is ignored
with a warning, unless it is known to change the computation in other programs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pause_megatron import log
from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import (
    CONFIG_FILE,
    GELU_NAMES,
    POSITIONS_KEY,
    ROPE_SCALING_NAMES,
    pause_positions_of,
)
from pause_megatron.errors import UserError
from pause_megatron.records.files import read_json

COMPUTES_NOTHING = frozenset(
    {
        *("architectures", "transformers_version", "_name_or_path", "name_or_path", "auto_map", "tokenizer_class"),
        *("dtype", "torch_dtype", "use_bfloat16", "torchscript", "gradient_checkpointing", "chunk_size_feed_forward"),
        *("output_hidden_states", "output_attentions", "tie_last_hidden_states", "use_cache"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "prefix"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "experts_implementation"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
        *("max_length", "min_length", "do_sample", "num_beams", "temperature", "top_k", "top_p", "repetition_penalty"),
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("summary_first_dropout", "n_ctx", "reorder_and_upcast_attn", "pretraining_tp", "max_window_layers"),
        *("unsloth_version", "unsloth_fixed", "transformers.js_config", "model_max_length"),
    }
)
"""Settings of names, storage, other heads than the language model's, generation (read elsewhere), and kernels."""
MUST_BE_OFF = frozenset(
    {
        *("use_sliding_window", "sliding_window", "attention_chunk_size", "kv_sharing_modes", "no_rope_layers"),
        *("per_layer_config", "pruned_heads", "fusion_config", "use_mrope", "rope_interleaved", "alibi"),
        *("is_encoder_decoder", "tie_encoder_decoder", "add_cross_attention", "use_parallel_residual", "clip_qkv"),
        *("final_logit_softcapping", "attn_logit_softcapping", "use_qk_norm", "qk_layernorm", "qkv_bias"),
        *("num_experts", "num_local_experts", "qk_rope_head_dim", "kv_lora_rank", "layerdrop"),
    }
)
"""Settings that change the computation in transformers or another program, unless they are none, false, zero or
empty."""
MUST_BE_ONE = frozenset(
    {
        *("logits_scaling", "logit_scale", "residual_multiplier", "embedding_multiplier", "attention_multiplier"),
        *("scale_emb", "embedding_scale", "scale_depth", "residual_scale", "logits_mup_width_multiplier"),
    }
)
"""Factors that change the computation in another program, unless they are none or one."""
_FULL_ATTENTION = "full_attention"
_ROPE_KEYS = {
    "default": {"rope_type", "type", "rope_theta", "partial_rotary_factor"},
    "llama3": {"rope_type", "type", "rope_theta", "partial_rotary_factor", *ROPE_SCALING_NAMES.values()},
}
"""Type of rotary embeddings to its keys in ``rope_parameters``."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A supported ``model_type``."""

    convert: Callable[[Any], ModelConfig]
    """Converts a configuration without unsupported settings."""
    converted: frozenset[str]
    """Settings that are converted, or checked together with others."""
    required: Mapping[str, tuple[Any, ...]]
    """Setting to its supported values."""
    dropouts: tuple[str, ...] = ()
    """Rates of dropout; training here has none."""


def model_config_of(config: PretrainedConfig, path: Path) -> ModelConfig:
    """``ModelConfig`` of the Hugging Face ``config`` in the folder ``path``.

    Raises :class:`UserError` that lists the settings which this project's models do not support.
    """
    kind = KINDS.get(config.model_type)
    if kind is None:
        problem = f"unsupported model_type {config.model_type!r}"
        if config.model_type == "gpt_neox":
            problem += " (blocks of GPT-NeoX and Pythia compute attention and MLP in parallel, from one input)"
        raise UserError(f"--model {path}: {problem}; give a GPT-2, Llama, Qwen2 or Qwen3 model, {_INSTEAD}")
    file = path / CONFIG_FILE
    try:
        problems = list(_problems(config, read_json(file), kind, file))
        if problems:
            raise UserError(
                f"--model {path}: unsupported settings in config.json: {', '.join(problems)}; give another model,"
                f" {_INSTEAD}"
            )
        return kind.convert(config)
    except (ArithmeticError, LookupError, TypeError) as error:  # for example, no attention heads
        raise UserError(f"{file}: {type(error).__name__} ({error}); fetch the file again") from error


_INSTEAD = "or finetune this one without pretraining: pause-megatron finetune --add-pause"


def _problems(config: Any, raw: dict[str, Any], kind: Kind, file: Path) -> Iterator[str]:
    """Yield each unsupported setting with its value; warn of those that are ignored."""
    if raw.get("per_layer_config"):
        yield "per_layer_config"
        return  # the settings of the model as a whole cannot be read
    defaults = type(config)().to_dict()
    own = config.to_dict()  # as transformers reads them, for example sliding_window
    values = {key: value for key, value in raw.items() if key not in defaults}
    values |= {key: own.get(key) for key in defaults}
    unknown = []
    for key, value in values.items():
        if key in kind.converted or key in COMPUTES_NOTHING or key in kind.dropouts:
            continue
        if key == "layer_types":
            if any(of_layer != _FULL_ATTENTION for of_layer in value or ()):
                yield f"{key} other than {_FULL_ATTENTION}"
        elif key in kind.required:
            if value not in kind.required[key]:
                yield f"{key} {value!r}"
        elif key in MUST_BE_OFF:
            if value:
                yield f"{key} {value!r}"
        elif key in MUST_BE_ONE:
            if value not in (None, 1):
                yield f"{key} {value!r}"
        elif key not in defaults:
            unknown += [key] if value else []
        elif value != defaults[key]:
            yield f"{key} {value!r}"
    if "rope_parameters" in kind.converted:
        yield from _rope_problems(config, raw)
    if unknown:
        log.warn(f"{file}: ignoring {', '.join(sorted(unknown))}, as transformers does")
    if rates := [f"{key} {own[key]}" for key in kind.dropouts if own[key]]:
        log.warn(f"{file}: ignoring {', '.join(rates)}; pretraining here has no dropout")


def _rope_problems(config: Any, raw: dict[str, Any]) -> Iterator[str]:
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind not in _ROPE_KEYS:
        yield f"rotary embeddings of type {kind!r}"
        return
    if rope.get("type", kind) != kind:
        yield f"type {rope['type']!r} in rope_parameters, but rope_type {kind!r}"
    yield from (f"{key} in rope_parameters" for key in rope.keys() - _ROPE_KEYS[kind])
    if rope.get("partial_rotary_factor") not in (None, 1):
        yield f"partial_rotary_factor {rope['partial_rotary_factor']}"
    for key in ("rope_theta", *(ROPE_SCALING_NAMES.values() if kind == "llama3" else ())):
        if type(rope.get(key)) not in (int, float):
            yield f"{key} {rope.get(key)!r} in rope_parameters"
        elif key in ("rope_theta", "original_max_position_embeddings") and not float(rope[key]).is_integer():
            yield f"{key} {rope[key]}"
    yield from _contradictions(rope, raw)
    head_dim = getattr(config, "head_dim", 1)
    if type(head_dim) is not int or head_dim < 1:
        yield f"head_dim {head_dim!r}"


def _contradictions(rope: dict[str, Any], raw: dict[str, Any]) -> Iterator[str]:
    """Yield settings that are given twice with different values: programs disagree about which of the two counts."""
    for key in ("rope_theta", "original_max_position_embeddings", "partial_rotary_factor"):
        if raw.get(key) not in (None, rope.get(key)):
            yield f"{key} {raw[key]}, but {rope.get(key)} in rope_parameters"
    given = raw.get("rope_parameters") or {}
    if given.get("rope_theta") not in (None, rope.get("rope_theta")):
        yield f"rope_theta {given['rope_theta']} in rope_parameters, but {rope.get('rope_theta')} by rope_scaling"
    if given and raw.get("rope_scaling") and _scaling(given) != _scaling(raw["rope_scaling"]):
        yield "rope_scaling that differs from rope_parameters"


def _scaling(rope: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``rope`` that also are in ``rope_scaling``, the older name."""
    elsewhere = ("type", "rope_theta", "partial_rotary_factor")
    kept = {key: value for key, value in rope.items() if key not in elsewhere}
    return {"rope_type": rope.get("type", "default"), **kept}


def _gpt2(config: Any) -> ModelConfig:
    return ModelConfig(
        **_common_settings(config),
        architecture="gpt2",
        ffn_hidden_size=config.n_inner or 4 * config.n_embd,
        layernorm_epsilon=config.layer_norm_epsilon,
        gelu=_GELUS[config.activation_function],
    )


def _llama(config: Any) -> ModelConfig:
    rope, heads = config.rope_parameters, config.num_attention_heads
    head_dim = getattr(config, "head_dim", config.hidden_size // heads)  # Qwen2 has none
    scaling: dict[str, Any] = {"use_rope_scaling": True} if rope.get("rope_type") == "llama3" else {}
    scaling |= {name: rope[key] for name, key in ROPE_SCALING_NAMES.items() if scaling}
    return ModelConfig(
        **_common_settings(config),
        architecture="llama",
        num_query_groups=config.num_key_value_heads,
        kv_channels=0 if head_dim * heads == config.hidden_size else head_dim,
        add_qkv_bias=config.model_type == "qwen2",
        qk_layernorm=config.model_type == "qwen3",
        ffn_hidden_size=config.intermediate_size,
        layernorm_epsilon=config.rms_norm_eps,
        rotary_base=int(rope["rope_theta"]),
        **scaling,
    )


def _common_settings(config: Any) -> dict[str, Any]:
    return {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "untie_embeddings_and_output_weights": not config.tie_word_embeddings,
        "init_method_std": config.initializer_range,
        "pause_positions": pause_positions_of(config),
    }


_GELUS: dict[str, Any] = {name: gelu for gelu, name in GELU_NAMES.items()} | {"gelu_pytorch_tanh": "tanh"}
_COMMON = frozenset(
    {
        *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("max_position_embeddings", "tie_word_embeddings", "initializer_range", POSITIONS_KEY),
    }
)
_REQUIRED = {"is_causal": (True, None), "return_dict": (True, None)}
_LLAMA = Kind(
    convert=_llama,
    converted=_COMMON
    | {
        *("num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps", "rope_parameters", "rope_scaling"),
        *("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"),
    },
    required={
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "attention_dropout": (0, None),
        "mlp_bias": (False, None),
        **_REQUIRED,
    },
)
KINDS = {
    "gpt2": Kind(
        convert=_gpt2,
        converted=_COMMON | {"n_embd", "n_layer", "n_head", "n_positions", "n_inner", "layer_norm_epsilon"},
        required={
            "activation_function": tuple(_GELUS),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False, None),
            **_REQUIRED,
        },
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""Supported ``model_type`` to its settings."""
