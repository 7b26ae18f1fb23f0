"""What becomes of a record or a file that cannot be read: the end of the run, or a line in the report.

The one place where every reader's ``on_error`` is decided.
"""

from __future__ import annotations

from typing import Literal

from pause_megatron.corpus.blocks import InputError, ReadOptions
from pause_megatron.errors import UserError


class Failures:
    """Turns what is wrong with one source into what :attr:`ReadOptions.on_error` asks for."""

    def __init__(self, location: str, unit: Literal["line", "row"], options: ReadOptions) -> None:
        self._location = location
        self._unit = unit
        self._stop = options.on_error == "stop"

    def record(self, number: int, reason: str, expected: str) -> InputError:
        """The record ``number`` (1-based) cannot be read: raise, or return what to report."""
        if self._stop:
            raise UserError(f"{self._location}, {self._unit} {number}: {reason}; expected {expected}")
        return InputError(number, reason)

    def file(self, records_before: int, reason: str) -> InputError:
        """The file cannot be read on after so many lines or rows: raise, or return what to report."""
        where = f"after {self._unit} {records_before}" if records_before else "and nothing of it was read"
        if self._stop:
            raise UserError(f"{self._location}: {reason}, {where}; mend the file or leave it out")
        return InputError(0, f"{reason}, {where}")
