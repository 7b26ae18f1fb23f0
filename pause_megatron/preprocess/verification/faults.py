"""What verification finds wrong: for each kind of fault the first one in full, and how many more there are.

A single damaged byte is one line, and a shard that is wrong throughout is a few lines, not millions.
"""

from __future__ import annotations

from dataclasses import dataclass


class Faults:
    """Collects the faults of one thing that is checked."""

    def __init__(self) -> None:
        self._messages: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, message: str, count: int = 1) -> None:
        """Add ``count`` faults of a ``kind``, of which ``message`` (one line) describes the first."""
        self._messages.setdefault(kind, message)
        self._counts[kind] = self._counts.get(kind, 0) + count

    def expect(self, kind: str, subject: str, found: object, expected: object) -> bool:
        """Add a fault unless ``found`` equals ``expected``; returns whether it does. ``subject`` names what it is."""
        if found == expected:
            return True
        self.add(kind, f"{subject} {found}, expected {expected}")
        return False

    def __bool__(self) -> bool:
        return bool(self._messages)

    def lines(self) -> tuple[str, ...]:
        """One line for each kind of fault, in the order they were found."""
        return tuple(
            message + (f" ({self._counts[kind] - 1} more of this kind)" if self._counts[kind] > 1 else "")
            for kind, message in self._messages.items()
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came out of checking a shard or a pair of files."""

    faults: tuple[str, ...]
    """One line each."""
    compared_tokens: int = 0
    """Real tokens that were compared with the standard twin."""
