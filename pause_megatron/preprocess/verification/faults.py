"""Faults that verification finds: for each kind the first one in full, and the number of further ones."""

from collections import Counter


class Faults:
    """Collects the faults of one shard, file or manifest."""

    compared_tokens = 0
    """Real tokens of the shard that were compared with the dataset without pauses."""

    def __init__(self) -> None:
        self._messages: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, message: str, count: int = 1) -> None:
        """Add ``count`` faults of a ``kind``; ``message`` (one line) describes the first of them."""
        self._messages.setdefault(kind, message)
        self._counts[kind] += count

    def expect(self, kind: str, subject: str, found: object, expected: object) -> bool:
        """Add a fault unless ``found`` equals ``expected``; returns whether it does."""
        if found == expected:
            return True
        self.add(kind, f"{subject} {found}, expected {expected}")
        return False

    def lines(self) -> tuple[str, ...]:
        """Return one line for each kind of fault, in the order they were found."""
        return tuple(
            message + (f" ({self._counts[kind] - 1} more of this kind)" if self._counts[kind] > 1 else "")
            for kind, message in self._messages.items()
        )
