"""Reader and writer of records: typed, complete or not at all, with errors that name the file and the key.

A field without a default is a required key. A field with the default None is an optional key: it is left out when it is
None, for example the loss after pauses in a run without pauses.
"""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from pause_megatron.atomic import write_json
from pause_megatron.errors import UserError


class FileRecord(Protocol):
    """Dataclass of one JSON file."""

    FORMAT: ClassVar[str]
    """Format tag, the value of the key ``format``."""
    PRODUCER: ClassVar[str]
    """Command that writes the file, for error messages."""

    @property
    def format(self) -> str:
        """The key ``format`` of the file."""


class LineRecord(Protocol):
    """Dataclass of one line of a ``metrics.jsonl``."""

    KIND: ClassVar[str]
    """Value of the key ``kind``, which tells the lines of a file apart."""


File = TypeVar("File", bound=FileRecord)
Record = TypeVar("Record")


def write_record(path: Path, record: FileRecord) -> None:
    """Write ``record`` to ``path`` as indented JSON, complete or not at all."""
    write_json(path, plain_record(record))


def read_record(path: Path, kind: type[File]) -> File:
    """Read the record of class ``kind`` from ``path``.

    Raises :class:`UserError` that names the file and the key when the file is missing or is not JSON, has another
    format tag, lacks a key, has an unknown key, or has a value of another type.
    """
    return record_of(read_json(path), path, kind)


def record_of(values: Any, path: Path, kind: type[File]) -> File:
    """Return the record of class ``kind`` with ``values``, the JSON content of ``path``.

    Raises as :func:`read_record` does.
    """
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found != kind.FORMAT:
        raise UserError(
            f"{path}: expected format '{kind.FORMAT}', found '{found}'; give a file that '{kind.PRODUCER}' wrote"
        )
    return convert_record(values, kind, f"{path}", f"write it again with '{kind.PRODUCER}'")


def read_json(path: Path) -> Any:
    """Read any JSON file. Raises :class:`UserError` that names the file when it is missing or is not JSON."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise UserError(f"{path}: not complete JSON ({error}); write it again") from error


def line_of(record: LineRecord) -> dict[str, Any]:
    """Return ``record`` as the content of one line of a ``metrics.jsonl``, with ``kind`` first."""
    return {"kind": record.KIND, **plain_record(record)}


def read_record_lines(path: Path, kinds: tuple[type[Record], ...]) -> list[Record]:
    """Read the records of ``path``, a ``metrics.jsonl`` whose lines are of ``kinds``, in order.

    Skips a last line without a line end, which a crash or a concurrent writer leaves. Raises :class:`UserError` that
    names the file, the line and the key when a line is not JSON, or is not a record of one of ``kinds``.
    """
    by_kind = {kind.KIND: kind for kind in kinds}  # type: ignore[attr-defined]
    records = []
    for place, values in _json_lines(path):
        kind = by_kind.get(str(values.pop("kind", None))) if isinstance(values, dict) else None
        if kind is None:
            raise UserError(f"{place}: key 'kind' must be one of {', '.join(by_kind)}; remove the line")
        records.append(convert_record(values, kind, place, "remove the line"))
    return records


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``FILE:LINE`` and the content of each complete line."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    try:
                        content = json.loads(line)
                    except ValueError as error:
                        raise UserError(f"{path}:{number}: not JSON ({error}); remove the line") from error
                    yield f"{path}:{number}", content
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); remove the line") from error


def path_of_record(path: Path | str, directory: str | None, folder: Path) -> Path:
    """Return a path that a record holds, as seen from the current directory.

    Args:
        path: as the user gave it; an absolute path is returned as it is.
        directory: directory that the command ran in, relative to ``folder``; None for the current one.
        folder: folder of the record's file. It may have been moved together with the files it refers to.
    """
    if directory is None or Path(path).is_absolute():
        return Path(path)
    found, here = Path(os.path.normpath(folder.resolve() / directory / path)), Path.cwd()
    return found.relative_to(here) if found.is_relative_to(here) else found


def convert_record(values: dict[str, Any], kind: type[Record], place: str, remedy: str) -> Record:
    """Return the record of class ``kind`` with ``values``, JSON content.

    Raises :class:`UserError` that starts with ``place`` and ends with ``remedy`` when a key is missing, unknown or of
    another type.
    """
    if problem := next(_key_problems(values, kind), None):
        raise UserError(f"{place}: {problem}; {remedy}")
    try:
        return msgspec.convert(values, kind, str_keys=True)  # JSON has no integer keys
    except msgspec.ValidationError as error:
        raise UserError(f"{place}: {str(error).replace('`$.', '`')}; {remedy}") from error


def _key_problems(values: Any, kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield each unknown or missing key of ``values``, and of the records nested in it, for the dataclass ``kind``.

    msgspec ignores unknown keys of dataclasses, so that a misspelt optional key would be lost in silence.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(values, dict):
        hints = _field_types(kind)
        yield from (f"unknown key '{prefix}{key}'" for key in values if key not in hints)
        for field in dataclasses.fields(kind):
            if field.name in values:
                yield from _key_problems(values[field.name], hints[field.name], f"{prefix}{field.name}.")
            elif field.default is not None:
                yield f"missing key '{prefix}{field.name}'"
        return
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and isinstance(values, dict):
        for value in values.values():
            yield from _key_problems(value, arguments[1], prefix)
    elif origin is tuple and isinstance(values, list):
        for value in values:
            yield from _key_problems(value, arguments[0], prefix)
    elif origin in (types.UnionType, typing.Union):
        for argument in arguments:
            yield from _key_problems(values, argument, prefix)


@cache
def _field_types(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def plain_record(value: Any) -> Any:
    """Return ``value``, a record or a part of one, as JSON-ready data.

    A field with the default None is an optional key: left out if None.
    """
    if dataclasses.is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: plain_record(item) for field, item in pairs if not (item is None and field.default is None)}
    if isinstance(value, dict):
        return {key: plain_record(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_record(item) for item in value]
    return str(value) if isinstance(value, Path) else value
