"""Sources of documents, and the blocks that they yield: the same for every kind of input.

:class:`BlockBuilder` is the only place that decides how an unreadable record or file is handled: it stops the run, or
is reported in its block.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pause_megatron.errors import UserError

_ERRORS_PER_BLOCK = 1000
"""Errors that complete a block early: a file of the wrong kind can have millions."""


@dataclass(frozen=True, slots=True)
class InputError:
    """One record that was skipped, or a file that ended early."""

    line: int
    """1-based line (JSON lines) or row (Parquet, datasets); 0 for the file itself."""
    reason: str
    """One line, for example ``not valid UTF-8 (invalid start byte)``."""


@dataclass(frozen=True)
class Block:
    """Documents read together, in order."""

    texts: list[str]
    """Documents; may contain empty strings."""
    read_bytes: int
    """Unpacked input bytes of this block: bytes of JSON lines, or of UTF-8 text for Parquet and datasets."""
    errors: tuple[InputError, ...] = ()
    """Skipped records of this block; an error of the file itself comes last."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a source."""

    text_key: str = "text"
    """JSON key or column of the document."""
    on_error: Literal["stop", "skip"] = "stop"
    """Handling of an unreadable record: raise ``UserError``, or skip it and report it in its block."""
    max_document_bytes: int = 256 << 20
    """Longest JSON line or row text, in bytes; a longer one is an error. Bounds the memory of reading."""
    block_bytes: int = 4 << 20
    """Unpacked bytes per block. Does not change which documents are read."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Input of one shard; can be sent to another process."""

    name: str
    """File name of the shard, unique among the sources found together."""
    location: str
    """Path or address, for errors and manifests."""
    size_bytes: int = 0
    """Stored size, in bytes; 0 if unknown."""

    @abstractmethod
    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the documents in order.

        Raises :class:`UserError` if the source cannot be opened or has no column ``options.text_key``; and, unless
        ``options`` skip errors, at the first record that is not a string, not UTF-8 or too long, and if the data is
        damaged.
        """


class BlockBuilder:
    """Collects the documents and errors of one source since its last block."""

    def __init__(self, location: str, unit: Literal["line", "row"], expected: str, options: ReadOptions) -> None:
        self._location = location
        self._unit = unit
        self._expected = expected
        self._options = options
        self._errors: list[InputError] = []
        self.texts: list[str] = []
        self.read_bytes = 0
        self.record = 0
        """1-based number of the line or row read last."""

    def reject(self, reason: str) -> None:
        """Report the current record as unreadable, or raise :class:`UserError`."""
        if self._options.on_error == "stop":
            raise UserError(f"{self._location}, {self._unit} {self.record}: {reason}; expected {self._expected}")
        self._errors.append(InputError(self.record, reason))

    def reject_rest(self, reason: str) -> None:
        """Report everything after the current record as unreadable, or raise :class:`UserError`."""
        where = f"after {self._unit} {self.record}" if self.record else "of it"
        reason = f"{reason}; nothing {where} can be read"
        if self._options.on_error == "stop":
            raise UserError(f"{self._location}: {reason}; fetch the file again or leave it out")
        self._errors.append(InputError(0, reason))

    def full_blocks(self) -> Iterator[Block]:
        """Yield a block if enough was collected."""
        if self.read_bytes >= self._options.block_bytes or len(self._errors) >= _ERRORS_PER_BLOCK:
            yield self._take()

    def last_block(self) -> Iterator[Block]:
        """Yield the rest, if any."""
        if self.read_bytes or self.texts or self._errors:
            yield self._take()

    def _take(self) -> Block:
        block = Block(self.texts, self.read_bytes, tuple(self._errors))
        self.texts, self.read_bytes, self._errors = [], 0, []
        return block


def too_long(record_bytes: int, max_bytes: int) -> str:
    """The reason for rejecting a record longer than ``max_bytes``."""
    return f"{record_bytes} bytes long, more than the {max_bytes} allowed"
