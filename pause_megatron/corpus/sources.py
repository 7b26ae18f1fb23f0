"""What a user names as input to sources: files, globs, folders and Hugging Face datasets, one source for each shard.

The entry of the package. A source is what one shard of a dataset is made from; it knows its name, and reads itself.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from pause_megatron.corpus.blocks import Block, ReadOptions
from pause_megatron.corpus.json_lines import JSON_SUFFIXES, JsonLinesSource
from pause_megatron.errors import UserError

FILE_SUFFIXES = JSON_SUFFIXES
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
    files: set[Path] = set()
    for pattern in inputs:
        found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns too
        found = [path for path in found if path.is_file()]
        if not found:
            raise UserError(f"--input {pattern}: no such file; give paths or globs of text files, quoted for the shell")
        files.update(found)
    sources = sorted(map(_file_source, files), key=lambda source: source.location)
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


def _file_source(path: Path) -> Source:
    return JsonLinesSource(name=shard_name(path), location=str(path), size_bytes=path.stat().st_size)


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
