"""Helpers of the reading tests: read complete sources, and compress files in every format."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import zstandard

from pause_megatron.corpus import InputError, ReadOptions, Source, find_sources


class Read(NamedTuple):
    """All that a source gave."""

    texts: list[str]
    errors: list[tuple[int, str]]
    read_bytes: int


def read(source: Source | Path, **options: object) -> Read:
    """Read a source, or the only source of a path, to its end."""
    if isinstance(source, Path):
        (source,) = find_sources([str(source)])
    blocks = list(source.read(ReadOptions(**options)))  # type: ignore[arg-type]
    errors: list[InputError] = [error for block in blocks for error in block.errors]
    return Read(
        [text for block in blocks for text in block.texts],
        [(error.line, error.reason) for error in errors],
        sum(block.read_bytes for block in blocks),
    )


def skip(source: Source | Path, **options: object) -> Read:
    """:func:`read`, errors skipped."""
    return read(source, on_error="skip", **options)


PACKINGS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
"""Suffix of a compressed file to the function that compresses it."""
