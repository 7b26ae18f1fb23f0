"""What a user names as input to sources: files, globs, folders and Hugging Face datasets, one source for each shard.

The entry of the package. A source is what one shard of a dataset is made from; it knows its name, and reads itself.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from pause_megatron.corpus.blocks import Block, ReadOptions
from pause_megatron.corpus.hub_datasets import HUB_PREFIX, hub_sources
from pause_megatron.corpus.json_lines import JSON_SUFFIXES, JsonLinesSource
from pause_megatron.corpus.parquet import PARQUET_SUFFIX, ParquetSource
from pause_megatron.corpus.saved_datasets import is_saved_dataset, saved_dataset_sources
from pause_megatron.errors import UserError

FILE_SUFFIXES = (*JSON_SUFFIXES, PARQUET_SUFFIX)
RESERVED_NAMES = frozenset({"dataset"})
"""Names of files that describe a dataset as a whole."""


class Source(Protocol):
    """One shard's input: a small frozen dataclass that can be sent to another process."""

    @property
    def name(self) -> str:
        """The shard's file name, safe for a file system and unlike that of any other source found with it."""

    @property
    def location(self) -> str:
        """What errors and manifests call it."""

    @property
    def size_bytes(self) -> int:
        """Stored size; 0 when unknown."""

    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the documents in order. Raises :class:`UserError` for what cannot be read."""


def find_sources(inputs: Iterable[str]) -> tuple[Source, ...]:
    """The sources that ``inputs`` name, sorted by location, each once.

    An input is a path, a glob (``*``, ``?``, ``[]``, ``**``), a folder written by ``datasets.save_to_disk``, or
    ``hf:NAME[:CONFIG[:SPLIT]]``.

    Raises :class:`UserError` for an input that nothing is found for, a file of an unknown kind, and two sources of one
    name.
    """
    found: dict[str, Source] = {}
    for wanted in inputs:
        for source in hub_sources(wanted) if wanted.startswith(HUB_PREFIX) else _path_sources(wanted):
            # Not resolved further: two links to one file are two inputs.
            found.setdefault(os.path.abspath(source.location), source)  # noqa: PTH100
    sources = sorted(found.values(), key=lambda source: source.location)
    _check_names(sources)
    return tuple(sources)


def shard_name(path: Path) -> str:
    """The name of the shard made from the file ``path``: the file's, without its suffix.

    Raises :class:`UserError` for a file of an unknown kind.
    """
    for suffix in FILE_SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    raise UserError(f"{path}: unknown kind of file; its name should end in {', '.join(FILE_SUFFIXES)}")


def _path_sources(pattern: str) -> list[Source]:
    """The sources of a path, or of all paths that a glob matches; folders that hold no dataset are not meant by it."""
    literal = Path(pattern)
    if literal.is_dir() and not is_saved_dataset(literal):
        raise UserError(
            f"--input {pattern}: a folder that datasets.save_to_disk did not write; "
            f"name the files in it, as '{literal / '*.json.gz'}'"
        )
    names = [pattern] if literal.exists() else glob.glob(pattern, recursive=True)  # noqa: PTH207 - absolute too
    paths = [Path(name) for name in names]
    sources: list[Source] = []
    for path in paths:
        if path.is_file():
            sources.append(_file_source(path))
        elif is_saved_dataset(path):
            sources += saved_dataset_sources(path)
    if not sources:
        raise UserError(f"--input {pattern}: no such file; give paths or globs of text files, quoted for the shell")
    return sources


def _file_source(path: Path) -> Source:
    kind = ParquetSource if path.suffix == PARQUET_SUFFIX else JsonLinesSource
    return kind(name=shard_name(path), location=str(path), size_bytes=path.stat().st_size)


def _check_names(sources: Iterable[Source]) -> None:
    """Raise :class:`UserError` where two sources would be written to one shard, or one where no shard may be."""
    location_of: dict[str, str] = {}
    for source in sources:
        first = location_of.setdefault(source.name, source.location)
        if first != source.location or source.name in RESERVED_NAMES or not source.name:
            clash = f"{first} and {source.location}" if first != source.location else first
            raise UserError(
                f"{clash}: a shard is named after its file, and '{source.name}' is taken; rename it or leave it out"
            )
