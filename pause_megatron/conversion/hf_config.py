"""Writer and reader of ``config.json``; ``hf_settings.py`` converts what is read to ``ModelConfig``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import (
    AutoConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from pause_megatron.atomic import write_json
from pause_megatron.config.model import ModelConfig
from pause_megatron.errors import UserError, one_line, system_error
from pause_megatron.records.checkpoint_state import GenerationTokens
from pause_megatron.records.files import read_json

CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"

GELU_NAMES = {"exact": "gelu", "tanh": "gelu_new"}
"""``ModelConfig.gelu`` to Hugging Face's ``activation_function``."""
POSITIONS_KEY = "pause_positions"
"""Key of ``config.json`` with ``ModelConfig.pause_positions``; missing unless it is "shared". Only this project reads
it."""
ROPE_SCALING_NAMES = {
    "rope_scaling_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_original_max_position_embeddings": "original_max_position_embeddings",
}
"""Setting of ``ModelConfig`` to its name in Hugging Face's ``rope_parameters`` of type llama3."""
_ELSEWHERE = {
    "quantization_config": "the weights are quantized; give the model with unquantized weights",
    "compression_config": "the weights are quantized; give the model with unquantized weights",
    "transformers_weights": "the weights are in a file of another name; save the model again",
}
"""Settings in ``config.json`` with which ``model.safetensors`` does not have the weights as they are used."""


def read_hf_config(folder: Path) -> PretrainedConfig:
    """Read ``config.json`` of ``folder`` as transformers does, without running code that it names.

    Raises :class:`UserError` if it is missing or damaged, if the weights are quantized, or if pauses have a kind of
    position index that this version does not know.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a Hugging Face folder")
    if (folder / ADAPTER_FILE).exists():
        raise UserError(
            f"{folder / ADAPTER_FILE}: transformers loads this adapter and the model that it names, not the weights in"
            " this folder; merge the adapter, or remove the file"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        if refused := system_error(error, path):
            raise refused from error
        raise UserError(f"{path}: transformers cannot read it ({one_line(error)}); fetch the file again") from error
    for part in (config, config.get_text_config()):
        for key, problem in _ELSEWHERE.items():
            if getattr(part, key, None):
                raise UserError(f"{path}: {key} means that {problem}")
    try:
        pause_positions_of(config)
    except ValueError as error:
        raise UserError(f"{path}: {error}; export the model again") from error
    return config


def hf_model_type(model: ModelConfig) -> str:
    """Return the ``model_type`` of ``config.json``: gpt2, llama, qwen2 or qwen3."""
    if model.architecture == "gpt2":
        return "gpt2"
    return "qwen2" if model.add_qkv_bias else "qwen3" if model.qk_layernorm else "llama"


def hf_model_config(
    model: ModelConfig, *, vocab_size: int, eod_id: int, tokens: GenerationTokens | None = None
) -> PretrainedConfig:
    """``GPT2Config``, ``LlamaConfig``, ``Qwen2Config`` or ``Qwen3Config`` of ``model``.

    ``eod_id`` ends documents, and also starts an empty context. ``tokens`` are those of an imported model: its own
    token starts a context, and generation ends at all of its stop tokens too.
    """
    common = {
        "vocab_size": vocab_size,
        **_generation_tokens(eod_id, tokens),
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "initializer_range": model.init_method_std,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "max_position_embeddings": model.max_position_embeddings,
        **({POSITIONS_KEY: model.pause_positions} if model.shares_positions else {}),
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
    common |= {
        "intermediate_size": model.ffn_size,
        "num_key_value_heads": model.query_groups,
        "rms_norm_eps": model.layernorm_epsilon,
        "rope_parameters": _rope_parameters(model),
    }
    match hf_model_type(model):
        case "qwen2":  # the width of a head is no setting of Qwen2Config, but its model reads it
            width = {"head_dim": model.head_dim} if model.kv_channels else {}
            return Qwen2Config(**common, **width, use_sliding_window=False)
        case "qwen3":
            return Qwen3Config(**common, head_dim=model.head_dim, attention_bias=False, use_sliding_window=False)
        case _:
            return LlamaConfig(**common, head_dim=model.head_dim, attention_bias=False, mlp_bias=False)


def _rope_parameters(model: ModelConfig) -> dict[str, Any]:
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": float(model.rotary_base)}
    if model.use_rope_scaling:
        parameters |= {"rope_type": "llama3"} | {key: getattr(model, name) for name, key in ROPE_SCALING_NAMES.items()}
    return parameters


def hf_generation_config(
    *, pause_ids: Sequence[int], eod_id: int, tokens: GenerationTokens | None = None
) -> GenerationConfig:
    """Settings of generation: it ends at the end-of-document token, or another stop token in ``tokens``, and never
    emits a pause."""
    return GenerationConfig(**_generation_tokens(eod_id, tokens), suppress_tokens=list(pause_ids))


def _generation_tokens(eod_id: int, tokens: GenerationTokens | None) -> dict[str, Any]:
    stop_ids = [eod_id, *(token for token in (tokens.stop_ids if tokens else ()) if token != eod_id)]
    return {
        "bos_token_id": tokens.bos_id if tokens and tokens.bos_id is not None else eod_id,
        "eos_token_id": stop_ids if len(stop_ids) > 1 else eod_id,
        "pad_token_id": eod_id,
    }


def add_transformers_4_names(folder: Path) -> None:
    """Add the names to ``config.json`` by which transformers 4, and programs built on it, know the settings.

    Without them, those programs use defaults such as a rotary base of 10,000, and compute something else without a
    warning. transformers 5 reads both.
    """
    path = folder / CONFIG_FILE
    values = read_json(path)
    if "dtype" in values:
        values["torch_dtype"] = values["dtype"]
    rope = dict(values.get("rope_parameters") or {})  # models with several rotary bases name the kinds of layers here
    values |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    if rope.get("rope_type", "default") != "default":
        values["rope_scaling"] = rope
    write_json(path, values)


def pause_positions_of(config: Any) -> Literal["shift", "shared"]:
    """Return the kind of position indices in the Hugging Face ``config``; "shift" for models of other programs.

    Raises ``ValueError`` for a kind that this version does not know.
    """
    found = getattr(config, POSITIONS_KEY, "shift")
    if found == "shared":
        return "shared"
    if found == "shift":
        return "shift"
    raise ValueError(f"{POSITIONS_KEY} {found!r} is neither 'shift' nor 'shared'")
