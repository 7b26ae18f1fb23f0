"""What reading gives: blocks of documents with the records that could not be read, and the options of reading.

Every kind of input yields the same :class:`Block`, so that what follows does not know where the text came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class InputError:
    """One record that was skipped, or a file that ended early."""

    line: int
    """1-based line (JSON lines) or row (Parquet, datasets); 0 when it is the file itself."""
    reason: str
    """What is wrong with it, in one line."""


@dataclass(frozen=True)
class Block:
    """Documents read together, in order."""

    texts: list[str]
    """May contain empty strings."""
    read_bytes: int
    """Unpacked input bytes this block took: bytes of JSON lines, or of UTF-8 text for Parquet and datasets."""
    errors: tuple[InputError, ...] = ()
    """The records among them that were skipped; the error of the file itself, if there is one, comes last."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a source."""

    text_key: str = "text"
    """JSON key or column of the document."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a record that cannot be read does: raise ``UserError``, or be left out and reported in its block."""
    max_document_bytes: int = 256 << 20
    """A longer JSON line, or text of a row, is an error as any other. Bounds the memory of reading."""
    block_bytes: int = 4 << 20
    """Unpacked bytes read, parsed and handed on at a time. Does not decide what is read."""
