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
from pause_megatron.errors import UserError, one_line, quoted


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

_LONGEST_FILE_NAME = 250  # bytes; file systems allow 255, and a suffix may follow


def write_record(path: Path, record: FileRecord) -> None:
    """Write ``record`` to ``path`` as indented JSON, complete or not at all."""
    write_json(path, plain_record(record))


def read_record(path: Path, kind: type[File]) -> File:
    """Read the record of class ``kind`` from ``path``.

    Raises :class:`UserError` that names the file and the key when the file is missing or is not JSON, has another
    format tag, lacks a key, has an unknown key, or has a value of another type.
    """
    return record_of(read_json(path), path, kind)


def record_of(values: Any, path: Path | str, kind: type[File]) -> File:
    """Return the record of class ``kind`` with ``values``, the JSON content of ``path``.

    Raises as :func:`read_record` does.
    """
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found != kind.FORMAT:
        raise UserError(
            f"{path}: expected format '{kind.FORMAT}', found {quoted(str(found))}; give a file that '{kind.PRODUCER}'"
            " wrote"
        )
    return convert_record(values, kind, f"{path}", f"write it again with '{kind.PRODUCER}'")


def read_json(path: Path) -> Any:
    """Read any JSON file. Raises :class:`UserError` that names the file when it is missing or is not JSON."""
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def parse_json(content: bytes, path: Path | str) -> Any:
    """Return the values of ``content``, the JSON file at ``path``. Raises :class:`UserError` when it is not JSON."""
    try:
        values = msgspec.json.decode(content)
        _require_plain(values)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise UserError(f"{path}: not complete JSON ({one_line(error)}); write it again") from error
    return values


def _require_plain(values: Any) -> None:
    """Raise ``ValueError`` for what JSON allows but no record holds: huge integers, and halves of surrogate pairs."""
    try:
        msgspec.msgpack.encode(values)  # refuses both, and runs no Python code for each value
    except OverflowError as error:
        raise ValueError("an integer of more than 64 bits") from error


def is_file_name(name: object) -> bool:
    """Whether ``name``, which was read from a file, names a file directly in a folder, and not one elsewhere."""
    try:
        return (
            isinstance(name, str)
            and bool(name)
            and not name.startswith(".")  # not "..", and not the name of a temporary file
            and not {"/", "\0"} & set(name)
            and len(name.encode()) <= _LONGEST_FILE_NAME
        )
    except UnicodeEncodeError:
        return False


def path_beside(source: Path, name: object) -> Path:
    """Return the path of the file ``name`` in the folder of ``source``, the file that lists it.

    Every name that comes from a file must pass here or :func:`is_file_name`, because the file may be somebody else's. A
    symbolic link in the folder is followed: folders of the Hugging Face cache consist of links.

    Raises :class:`UserError` that names ``source`` if ``name`` is not the name of a file in its folder.
    """
    if not is_file_name(name):
        raise UserError(f"{source}: lists the file {quoted(name)}, which is not in its folder; fetch it again")
    return source.parent / str(name)


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
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    try:
                        content = json.loads(line.decode())
                        _require_plain(content)
                    except (ValueError, RecursionError) as error:
                        raise UserError(f"{path}:{number}: not JSON ({one_line(error)}); remove the line") from error
                    yield f"{path}:{number}", content
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


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

    Also yields each negative integer: all integers of records are counts, sizes, ids or seeds.

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
    if kind is int and isinstance(values, int) and values < 0:
        yield f"key '{prefix.removesuffix('.')}' is negative ({values})"
    elif origin is dict and isinstance(values, dict):
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
