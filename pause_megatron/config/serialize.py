"""Conversion of configurations to JSON-ready data, as checkpoints and results record it, and from ``--config``."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pause_megatron.config.checks import suggestion
from pause_megatron.errors import UserError, one_line

Config = typing.TypeVar("Config")

YAML_ERRORS = (
    *(yaml.YAMLError, ValueError, ArithmeticError, LookupError),
    *(AttributeError, TypeError, RecursionError),  # of tags such as !!timestamp with a value of another kind
)
"""Errors of reading YAML."""


def to_plain(config: Any) -> Any:
    """Return a configuration as JSON-ready data: dataclasses become dicts, tuples lists, paths strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


@dataclass(frozen=True)
class FlatField:
    """A setting that becomes one flag."""

    type: Any
    default: Any
    """:data:`dataclasses.MISSING` for a required setting."""


def flat_fields(config_class: type) -> dict[str, FlatField]:
    """Return name to type and default of every setting, including those of nested sections (without a prefix)."""
    found: dict[str, FlatField] = {}
    sections = _sections(config_class)
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.name in sections:
            found |= flat_fields(sections[field.name])
        else:
            found[field.name] = FlatField(hints[field.name], field.default)
    return found


def flat_values(config: Any) -> dict[str, Any]:
    """Return name to value of every setting; ``build(type(config), flat_values(config))`` equals ``config``."""
    values: dict[str, Any] = {}
    sections = _sections(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values |= flat_values(value) if field.name in sections else {field.name: value}
    return values


def to_flat(config: Any) -> dict[str, Any]:
    """Return ``config`` as JSON-ready data without sections, as ``finetune.json`` and evaluation results hold it."""
    plain: dict[str, Any] = to_plain(flat_values(config))
    return plain


def build(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Build a configuration from flat ``values``, for example ``{"task": "parity", "num_pauses_ft": 10, ...}``.

    Raises ``TypeError`` for an unknown or missing setting.
    """
    values = dict(values)
    for name, section in _sections(config_class).items():
        if name not in values:
            values[name] = build(section, {key: values.pop(key) for key in flat_fields(section) if key in values})
    return config_class(**values)


def flags_of_mapping(values: dict[str, Any], config_class: type, source: str) -> list[str]:
    """Convert a preset or the mapping of a configuration file to flags; the user's own flags follow and override them.

    Keys may be flat or in sections: ``{"num_layers": 6}`` and ``{"model": {"num_layers": 6}}`` both give
    ``["--num-layers", "6"]``. ``source`` names the file or preset in errors.

    Raises :class:`UserError` for a key that is not a field of ``config_class``.
    """
    known = flat_fields(config_class)
    sections = _sections(config_class)
    flags: list[str] = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in sections and isinstance(value, dict):
            flags += flags_of_mapping(value, sections[name], source)
        elif name not in known:
            raise UserError(f"{source}: unknown key '{key}'; {suggestion(name, sorted(known))}")
        elif value is None and bool in typing.get_args(known[name].type):
            continue  # a switch has no word for its default, None
        elif isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        elif isinstance(value, list | tuple):
            flags += [f"--{name.replace('_', '-')}", *map(str, value)]
        elif str(value).startswith("-"):  # as a word of its own it would be taken for a flag
            flags.append(f"--{name.replace('_', '-')}={value}")
        else:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def read_settings(path: Path, source: str, *, instead: str = "") -> dict[str, Any]:
    """Read a mapping of settings from a YAML or JSON file; ``source`` names its flag and the file in errors.

    Raises :class:`UserError` when the file is missing (the error ends with ``instead``), is not UTF-8 or not YAML, does
    not hold a mapping, or repeats values by aliases until they are many times as large as the file.
    """
    try:
        content = path.read_bytes()
        values = yaml.safe_load(content.decode("utf-8-sig"))
        _require_plain(values, len(content))
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or error}{instead}") from error
    except YAML_ERRORS as error:
        raise UserError(f"{source}: not YAML ({one_line(error)}); correct the file") from error
    if not isinstance(values, dict):
        raise UserError(f"{source}: holds a {type(values).__name__}; write lines such as 'key: value'")
    return values


def _require_plain(values: Any, file_bytes: int) -> None:
    """Raise ``ValueError`` if ``values`` has more parts than a file of this size can spell out, or contains itself.

    Also for text that is not Unicode: YAML and JSON can spell half of a surrogate pair.
    """
    left, waiting = 10_000 + 10 * file_bytes, [values]
    while waiting:
        left -= 1
        if left < 0:
            raise ValueError("aliases make it much larger than its file")
        value = waiting.pop()
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value


def _sections(config_class: type) -> dict[str, type]:
    """Return field name to dataclass for the fields that are sections."""
    hints = typing.get_type_hints(config_class).items()
    return {name: kind for name, kind in hints if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
