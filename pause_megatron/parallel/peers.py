"""What one process of a run knows of another one, and when that has to end the run."""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.errors import EXIT_DONE, EXIT_LOST_PROCESS, EXIT_REQUEUE
from pause_megatron.parallel.messages import Connection

ORDERLY = (EXIT_DONE, EXIT_REQUEUE)
"""Exit codes of a process that leaves when all others do."""
LAST_WORDS_SECONDS = 3.0
"""How long the others have to come to an end of their own when a process has left with an error, often theirs too."""


@dataclass(frozen=True)
class Process:
    """A process of the run, as a person can find it."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


@dataclass
class Peer:
    """Another process, as far as it has been heard of."""

    process: Process
    connection: Connection | None = None
    """None while it has yet to connect."""
    silence: float = 0.0
    """Seconds in which nothing was heard of it."""
    exit_code: int | None = None
    """What it has said it leaves with."""
    last_words: str = ""
    """Why it leaves."""

    def fault(self, timeout: float) -> tuple[int, str] | None:
        """The exit code and the line that end the run because of this process; None while nothing does.

        ``timeout``: seconds of silence after which it counts as dead.
        """
        if self.exit_code is not None:
            if self.exit_code in ORDERLY or self.silence < LAST_WORDS_SECONDS:
                return None
            return self.exit_code, f"{self.process} has left with exit code {self.exit_code}: {self.last_words}"
        is_there = self.connection is None or self.connection.is_open
        if is_there and self.silence < timeout:
            return None
        what = f"has given no sign of life for {timeout:g} s" if is_there else "was killed or has crashed"
        line = f"{self.process} {what}; the same command continues from the newest checkpoint"
        return EXIT_LOST_PROCESS, f"{line} (exit code {EXIT_LOST_PROCESS})"
