"""One example of each record, built from the types of its fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

Record = TypeVar("Record")


def example(kind: type[Record]) -> Record:
    """An instance of ``kind`` with a value in every field, optional ones included."""
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        values[field.name] = kind.FORMAT if field.name == "format" else _value(hints[field.name])  # type: ignore[attr-defined]
    return kind(**values)


def _value(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return example(hint)  # type: ignore[arg-type]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _value(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        return (_value(arguments[0]),)
    if origin is dict:
        return {"key": "value" if arguments[1] is Any else _value(arguments[1])}
    return {int: 3, float: 0.25, str: "text", bool: True}[hint]
