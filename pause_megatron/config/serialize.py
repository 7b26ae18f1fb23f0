"""Conversion of configurations to JSON-ready data and from ``--config`` files.

Each checkpoint and each result records its configuration in this form.
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import yaml

from pause_megatron.errors import UserError


def to_plain(config: Any) -> Any:
    """Return a configuration as JSON-ready data: dataclasses become dicts, tuples lists, paths strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def flag_names(config_class: type) -> set[str]:
    """Return the names of all fields that become flags, including those of nested sections (without a prefix)."""
    names: set[str] = set()
    sections = _sections(config_class)
    for field in dataclasses.fields(config_class):
        names |= flag_names(sections[field.name]) if field.name in sections else {field.name}
    return names


def flags_of_mapping(values: dict[str, Any], config_class: type, source: str) -> list[str]:
    """Convert a preset or the mapping of a configuration file to flags; the user's own flags follow and override them.

    Sections may be nested or flat. ``source`` names the file or preset in errors.

    Raises :class:`UserError` for a key that is not a field of ``config_class``.
    """
    known = flag_names(config_class)
    sections = _sections(config_class)
    flags: list[str] = []
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in sections and isinstance(value, dict):
            flags += flags_of_mapping(value, sections[name], source)
        elif name not in known:
            raise UserError(f"{source}: unknown key '{key}'; known keys: {', '.join(sorted(known))}")
        elif isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        else:
            values_of_flag = value if isinstance(value, list | tuple) else [value]
            flags += [f"--{name.replace('_', '-')}", *(str(item) for item in values_of_flag)]
    return flags


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a ``--config`` file, YAML or JSON.

    Raises :class:`UserError` when the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def _sections(config_class: type) -> dict[str, type]:
    """Return field name to dataclass for the fields that are sections."""
    hints = typing.get_type_hints(config_class)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(config_class)
        if dataclasses.is_dataclass(hints[field.name])
    }
