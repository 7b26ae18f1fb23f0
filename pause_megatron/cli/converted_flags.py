"""Flags that state a setting in another unit: they become the flag of that setting before the others are parsed."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING
from typing import Any

from pause_megatron.config.megatron_names import ConvertedFlag
from pause_megatron.config.serialize import flat_fields
from pause_megatron.errors import UserError

Read = Callable[[str, Sequence[str]], tuple[Any, list[str]]]


def converted_flags(config_class: type) -> dict[str, ConvertedFlag]:
    """Return name to flag of all flags of ``config_class`` that state a setting in another unit."""
    found: dict[str, ConvertedFlag] = getattr(config_class, "CONVERTED", {})
    return found


def converted_kinds(config_class: type) -> dict[str, type]:
    """Return name to type of these flags' values."""
    return {name: flag.kind for name, flag in converted_flags(config_class).items()}


def without_converted(config_class: type, earlier: list[str], typed: list[str], read: Read) -> list[str]:
    """Return ``typed`` with the flag of our setting in place of each flag that states it in another unit.

    Args:
        config_class: class of the configuration.
        earlier: words of a file or preset, which ``typed`` overrides.
        typed: words of the command line.
        read: ``read(name, words)`` returns the value of the last flag with this name, or None, and the other words.

    Raises :class:`UserError` if our flag is given too, or if the needed setting is not known.
    """
    for name, flag in converted_flags(config_class).items():
        value, rest = read(name, typed)
        if value is None:
            continue
        if read(flag.field, rest)[0] is not None:
            raise UserError(f"{_option(name)}: sets {_option(flag.field)}, which is given too; give only one of them")
        needed, default = read(flag.needs, [*earlier, *rest])[0], flat_fields(config_class)[flag.needs].default
        if (known := default if needed is None else needed) in (MISSING, 0):
            raise UserError(f"{_option(name)}: needs {_option(flag.needs)}; give it too")
        typed = [*rest, f"{_option(flag.field)}={flag.convert(value, known)!r}"]
    return typed


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
