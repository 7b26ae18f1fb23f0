"""Documents and errors on their way into blocks, for every kind of input alike.

The one place that decides what becomes of a record or a file that cannot be read: the end of the run, or a line in the
block's report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pause_megatron.corpus.blocks import Block, InputError, ReadOptions
from pause_megatron.errors import UserError

_ERRORS_PER_BLOCK = 1000
"""A file that is of another kind has millions of errors; they are handed on early."""


class Gatherer:
    """Holds what was read of one source since its last block, and knows the record it is at."""

    def __init__(self, location: str, unit: Literal["line", "row"], expected: str, options: ReadOptions) -> None:
        self._location = location
        self._unit = unit
        self._expected = expected
        self._options = options
        self._errors: list[InputError] = []
        self.texts: list[str] = []
        self.read_bytes = 0
        self.record = 0
        """Number of the last line or row that was read."""

    def reject(self, reason: str) -> None:
        """The current record cannot be read: note it, or raise :class:`UserError`."""
        if self._options.on_error == "stop":
            raise UserError(f"{self._location}, {self._unit} {self.record}: {reason}; expected {self._expected}")
        self._errors.append(InputError(self.record, reason))

    def reject_rest(self, reason: str) -> None:
        """Nothing after the current record can be read: note it, or raise :class:`UserError`."""
        where = f"after {self._unit} {self.record}" if self.record else "of it"
        reason = f"{reason}; nothing {where} can be read"
        if self._options.on_error == "stop":
            raise UserError(f"{self._location}: {reason}; fetch the file again or leave it out")
        self._errors.append(InputError(0, reason))

    def full_blocks(self) -> Iterator[Block]:
        """What was gathered, if it is enough for a block."""
        if self.read_bytes >= self._options.block_bytes or len(self._errors) >= _ERRORS_PER_BLOCK:
            yield self._take()

    def last_block(self) -> Iterator[Block]:
        """What was gathered, if there is anything."""
        if self.read_bytes or self.texts or self._errors:
            yield self._take()

    def _take(self) -> Block:
        block = Block(self.texts, self.read_bytes, tuple(self._errors))
        self.texts, self.read_bytes, self._errors = [], 0, []
        return block


def too_long(record_bytes: int, max_bytes: int) -> str:
    """What is wrong with a record longer than ``max_bytes``."""
    return f"{record_bytes} bytes long, more than the {max_bytes} allowed"
