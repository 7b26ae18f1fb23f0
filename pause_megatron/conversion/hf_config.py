"""Conversion of model configurations: ``ModelConfig`` to ``GPT2Config`` or ``LlamaConfig``, and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, GenerationConfig, GPT2Config, LlamaConfig, PretrainedConfig

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


def hf_model_config(
    model: ModelConfig, *, vocab_size: int, eod_id: int, tokens: GenerationTokens | None = None
) -> PretrainedConfig:
    """``GPT2Config`` or ``LlamaConfig`` of ``model``.

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


def model_config_of(config: PretrainedConfig, path: Path) -> ModelConfig:
    """``ModelConfig`` of the Hugging Face ``config`` in the folder ``path``.

    Raises :class:`UserError` that lists the settings which this project's models do not support.
    """
    known = {"gpt2": _gpt2, "llama": _llama}
    if config.model_type in known:
        try:
            return known[config.model_type](config, path)
        except (ArithmeticError, LookupError, TypeError) as error:  # for example, no attention heads
            raise UserError(f"{path / CONFIG_FILE}: {type(error).__name__} ({error}); fetch the file again") from error
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
    rope, base = config.rope_parameters, read_json(path / CONFIG_FILE).get("rope_theta")
    head_dim = config.hidden_size // config.num_attention_heads
    _require(
        path,
        (config.hidden_act == "silu", f"hidden_act {config.hidden_act!r}"),
        (not config.attention_bias, "attention_bias"),
        (not config.mlp_bias, "mlp_bias"),
        (config.head_dim in (None, head_dim), f"head_dim {config.head_dim}, not {head_dim}"),
        (rope.get("rope_type", "default") == "default", f"rotary embeddings of type {rope.get('rope_type')!r}"),
        (float(rope["rope_theta"]).is_integer(), f"rope_theta {rope['rope_theta']}"),
        # Programs disagree about which of the two counts
        (base in (None, rope["rope_theta"]), f"rope_theta {base}, but {rope['rope_theta']} in rope_parameters"),
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
        "pause_positions": pause_positions_of(config),
    }


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


def _require(path: Path, *conditions: tuple[bool, str]) -> None:
    unsupported = [setting for is_supported, setting in conditions if not is_supported]
    if unsupported:
        raise UserError(
            f"--model {path}: unsupported settings in config.json: {', '.join(unsupported)}; give another model"
        )
