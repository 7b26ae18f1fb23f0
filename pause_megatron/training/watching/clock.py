"""The time that training takes, without what lies between steps: validation and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TrainingClock:
    """Runs from its making, or from :meth:`restart`. Seconds throughout."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.restart()

    def restart(self) -> None:
        """Training begins now."""
        self._started = self._lap_began = self._now()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What the block takes is no training time."""
        began = self._now()
        try:
            yield
        finally:
            self._lap_began += self._now() - began

    def lap(self) -> float:
        """Training time since the last lap."""
        now = self._now()
        seconds, self._lap_began = now - self._lap_began, now
        return seconds

    @property
    def elapsed(self) -> float:
        """Time since the beginning, pauses of the clock included."""
        return self._now() - self._started
