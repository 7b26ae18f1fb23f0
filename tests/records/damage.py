"""Damage to one key of a record's JSON: removed, renamed or mistyped."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

CHANGES = ("removed", "renamed", "mistyped")


def keys(values: dict[str, Any], kind: Any, change: str, *, nested: bool = True) -> Iterator[tuple[str, ...]]:
    """Path of each key of ``values`` that is a field of ``kind`` or of a record nested in it.

    An optional key may be removed, so it is left out for the change "removed".
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        if not (change == "removed" and field.default is None):
            yield (field.name,)
        hint = hints[field.name]
        options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        for option in options:
            if nested and dataclasses.is_dataclass(option) and isinstance(values[field.name], dict):
                yield from ((field.name, *path) for path in keys(values[field.name], option, change))


def damaged(values: dict[str, Any], path: tuple[str, ...], change: str) -> dict[str, Any]:
    """A copy of ``values`` with ``change`` applied to the key at ``path``."""
    copy: dict[str, Any] = json.loads(json.dumps(values))
    holder = copy
    for name in path[:-1]:
        holder = holder[name]
    value = holder.pop(path[-1])
    if change == "renamed":
        holder[path[-1] + "s"] = value
    elif change == "mistyped":
        holder[path[-1]] = "1.5" if isinstance(value, int | float) and not isinstance(value, bool) else 1.5
    return copy
