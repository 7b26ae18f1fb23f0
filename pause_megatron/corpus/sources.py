"""Search for the sources of ``--input``: files, globs, addresses, folders and Hugging Face datasets.

Preprocessing makes one shard from each source. For example, ``'c4/*.json.gz'`` gives one source per matching file.
"""

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from pause_megatron.corpus.blocks import Source
from pause_megatron.corpus.hub_datasets import HUB_PREFIX, HubSource, hub_sources
from pause_megatron.corpus.json_lines import JSON_SUFFIXES, JsonLinesSource
from pause_megatron.corpus.parquet import PARQUET_SUFFIX, ParquetSource
from pause_megatron.corpus.saved_datasets import ArrowSource, is_saved_dataset, saved_dataset_sources
from pause_megatron.errors import UserError
from pause_megatron.remote_files import find_files, is_address

FILE_SUFFIXES = (*JSON_SUFFIXES, PARQUET_SUFFIX)
RESERVED_NAMES = frozenset({"dataset"})
"""Shard names that would clash with the files of a complete dataset."""

SOURCE_KINDS: Mapping[str, type[Source]] = {
    kind.__name__: kind for kind in (JsonLinesSource, ParquetSource, ArrowSource, HubSource)
}
"""Classes of sources, by name."""


def find_sources(inputs: Iterable[str]) -> tuple[Source, ...]:
    """Sources of ``inputs``, sorted by location, without duplicates.

    An input is a path, a glob (``*``, ``?``, ``[]``, ``**``), a folder written by ``datasets.save_to_disk``, an address
    or glob for fsspec such as ``s3://bucket/*.json.gz``, or ``hf:NAME[:CONFIG[:SPLIT]]``.

    Raises :class:`UserError` if nothing is found for an input, a file has an unknown suffix, or two sources have the
    same name; and for an address that cannot be listed.
    """
    found: dict[str, Source] = {}
    for wanted in inputs:
        for source in _sources_of(wanted):
            location = source.location
            if not is_address(location):
                location = os.path.abspath(location)  # noqa: PTH100 - two links to the same file are two inputs
            found.setdefault(location, source)
    sources = sorted(found.values(), key=lambda source: source.location)
    _check_names(sources)
    return tuple(sources)


def shard_name(location: Path | str) -> str:
    """Name of the shard made from the file at ``location``, a path or an address: its name without the suffix.

    Raises :class:`UserError` for an unknown suffix.
    """
    name = PurePath(location).name
    for suffix in FILE_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    raise UserError(f"{location}: unknown suffix; give files that end in {', '.join(FILE_SUFFIXES)}")


def _sources_of(wanted: str) -> Iterable[Source]:
    if is_address(wanted):
        return _remote_sources(wanted)
    return hub_sources(wanted) if wanted.startswith(HUB_PREFIX) else _path_sources(wanted)


def _remote_sources(pattern: str) -> list[Source]:
    """Sources of an address, or of all addresses that match a glob."""
    sources = [_file_source(address, size) for address, size in find_files(pattern)]
    if not sources:
        raise _not_found(pattern)
    return sources


def _file_source(location: str, size_bytes: int) -> Source:
    kind = ParquetSource if location.endswith(PARQUET_SUFFIX) else JsonLinesSource
    return kind(name=shard_name(location), location=location, size_bytes=size_bytes)


def _not_found(pattern: str) -> UserError:
    return UserError(f"--input {pattern}: no such file; give paths or quoted globs of text files")


def _path_sources(pattern: str) -> list[Source]:
    """Sources of a path, or of all paths that match a glob; other folders that match are ignored."""
    literal = Path(pattern)
    if literal.is_dir() and not is_saved_dataset(literal):
        raise UserError(
            f"--input {pattern}: a folder without a dataset of datasets.save_to_disk; "
            f"give the files in it, e.g. '{literal / '*.json.gz'}'"
        )
    names = [pattern] if literal.exists() else glob.glob(pattern, recursive=True)  # noqa: PTH207 - absolute too
    sources: list[Source] = []
    for path in map(Path, names):
        if path.is_file():
            sources.append(_file_source(str(path), path.stat().st_size))
        elif is_saved_dataset(path):
            sources += saved_dataset_sources(path)
    if not sources:
        raise _not_found(pattern)
    return sources


def _check_names(sources: Iterable[Source]) -> None:
    """Raise :class:`UserError` if two sources have the same name, or the name of one is reserved or empty."""
    location_of: dict[str, str] = {}
    for source in sources:
        first = location_of.setdefault(source.name, source.location)
        if first != source.location or source.name in RESERVED_NAMES or not source.name:
            clash = f"{first} and {source.location}" if first != source.location else first
            raise UserError(
                f"{clash}: the shard name '{source.name}' is taken or reserved; rename a file or leave it out"
            )
