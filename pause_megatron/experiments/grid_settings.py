"""Settings of commands in a grid file: known keys, of the right type, and not those that other keys decide."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pause_megatron.config.checks import suggestion
from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.deepspeed import found_deepspeed_file
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.report import ReportConfig
from pause_megatron.config.serialize import flat_fields
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.errors import UserError

PRESET = "preset"
"""Key in ``finetune`` that names a preset of ``pause-megatron finetune``."""
INSERTION_KEYS = ("pauses", "pause_rate", "rates", "pauses_per_token", "pause_interval", "gaps", "trimmed")
"""Settings of preprocessing that each model of a study has for itself."""
_SET_BY_GRID: dict[type, tuple[str, ...]] = {
    FinetuneConfig: (
        *("model", "task", "include_path", "output", "model_name", "data", "halve_evaluation"),
        *("num_pauses_ft", "pause_placement", "hint_weight", "seed"),
    ),
    EvaluateConfig: (
        *("model", "task", "include_path", "output", "data", "halve_evaluation"),
        *("num_pauses_inf", "pause_placement", "pause_marker", "filler"),
    ),
    TokenizerConfig: ("input", "output"),
    PreprocessConfig: ("input", "tokenizer", "output", "also", "shard_range", *INSERTION_KEYS),
    PretrainConfig: (
        *("data", "output", "tokenizer", "model_name", "seed", "processes"),
        *("dry_run", "json", "num_gpus", "assumed_mfu", "vocab_size"),
        *("assumed_gpu_mtbf", "assumed_save_seconds", "assumed_restart_seconds"),
    ),
    ConvertToHfConfig: ("checkpoint", "output", "tokenizer"),
    ReportConfig: ("evaluations", "pretrain", "output"),
}
"""Settings that other keys of a grid decide, such as ``num_pauses_ft`` and ``seeds``."""


def converted_settings(values: Any, config_class: type, where: str, *, presets: bool = False) -> dict[str, Any]:
    """Return ``values``, settings of ``config_class``, in the types of its fields; paths become absolute.

    With ``presets``, the key :data:`PRESET` may name a preset. Raises :class:`UserError` that starts with ``where`` for
    a key that is unknown or that other keys of a grid set, and for a value of the wrong type.
    """
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}; write lines such as 'key: value'")
    known: Mapping[str, Any] = getattr(config_class, "PRESETS", {}) if presets else {}
    if taken := [key for key in values if key in _SET_BY_GRID[config_class]]:
        keys = "such as tasks, models, num_pauses_ft and seeds"
        raise UserError(f"{where}: {taken[0]}: other keys of the grid set it, {keys}; remove it")
    kinds = {name: found.type for name, found in flat_fields(config_class).items()}
    if known:
        kinds[PRESET] = str
    require_known(values, kinds.keys() - set(_SET_BY_GRID[config_class]), where)
    if PRESET in values:
        require_known([values[PRESET]], known, f"{where}: {PRESET}", what="preset")
    return {key: convert(value, kinds[key], f"{where}: {key}") for key, value in values.items()}


def convert(value: Any, kind: Any, where: str) -> Any:
    """Return ``value`` as ``kind``. Raises :class:`UserError` that starts with ``where`` if that is not possible."""
    try:  # not strict: YAML reads 1e-4, without a decimal point, as text
        return msgspec.convert(value, kind, strict=False, dec_hook=read_path)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {error}") from error


def read_path(expected: type, value: Any) -> Any:
    """Return the text ``value`` as an absolute path; the name of a shipped DeepSpeed file is the path of that file.

    msgspec calls this for types that it does not know.
    """
    if expected is not Path or not isinstance(value, str):
        raise ValueError(f"Expected `{expected.__name__}`, got `{type(value).__name__}`")
    return found_deepspeed_file(Path(value)).absolute()


def require_known(keys: Iterable[Any], known: Iterable[str], where: str, what: str = "key") -> None:
    """Raise :class:`UserError` that starts with ``where`` for the first of ``keys`` that is not ``known``."""
    known = sorted(known)
    for key in keys:
        if key not in known:
            raise UserError(f"{where}: unknown {what} '{key}'; {suggestion(str(key), known)}")


def require_name(name: str, where: str) -> None:
    """Raise :class:`UserError` unless ``name`` can be part of file names."""
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UserError(f"{where}: '{name}' cannot be part of file names; use letters, digits and . _ + -")


def field_names(config_class: type) -> list[str]:
    """Return the names of the fields of a dataclass."""
    return [found.name for found in dataclasses.fields(config_class)]
