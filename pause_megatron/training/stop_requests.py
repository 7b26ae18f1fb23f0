"""Stop requests: signals from Slurm or a user, and the time limit.

A signal may reach only some ranks, or reach them at different steps. A rank that stopped by itself would leave the
others waiting in a collective. Therefore the signal handler only stores the request. Once per step the loop takes the
largest :attr:`StopRequests.request` with :func:`~pause_megatron.parallel.collectives.max_over_ranks`, and all ranks act
on it.
"""

import signal
import time
from contextlib import ExitStack
from enum import IntEnum
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from pause_megatron.errors import StoppedEarly
from pause_megatron.parallel.signals import STARTED, ignore_stop_signals, stop_signals_held_back, stop_signals_to


class StopRequest(IntEnum):
    """Reason to save and stop; if ranks have different requests, the largest counts."""

    NONE = 0
    TIME_IS_UP = 1
    SIGHUP = 2
    SIGUSR1 = 3
    SIGTERM = 4
    SIGINT = 5

    @property
    def reason(self) -> str:
        """The reason as text, for log lines."""
        return "--exit-duration reached" if self is StopRequest.TIME_IS_UP else f"stopped by {self.name}"


class StopRequests:
    """Receives stop signals inside its ``with`` block.

    Further signals do not interrupt the save that the first one requests; only a second Ctrl-C ends the process at
    once. After :class:`StoppedEarly` the process ignores further signals, so that they do not change its exit code. If
    the block ends in another way, the previous handlers are restored.
    """

    def __init__(self, exit_duration: float) -> None:
        """Set the time limit to ``exit_duration`` minutes after the start of the process (0: none)."""
        self._ends = STARTED + exit_duration * 60 if exit_duration else float("inf")
        self._signalled = StopRequest.NONE
        self._handlers = ExitStack()

    def __enter__(self) -> Self:
        self._handlers.enter_context(stop_signals_to(self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with stop_signals_held_back():  # no signal may arrive between the two handlers
            self._handlers.close()
            if isinstance(error, StoppedEarly):
                ignore_stop_signals()

    @property
    def request(self) -> StopRequest:
        """The largest request of this rank so far."""
        time_is_up = StopRequest.TIME_IS_UP if time.monotonic() >= self._ends else StopRequest.NONE
        return max(self._signalled, time_is_up)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = max(self._signalled, StopRequest[signal.Signals(number).name])
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped_early(request: int, *, iteration: int, checkpoint: Path | None) -> StoppedEarly:
    """The exception to raise when all ranks have agreed on ``request`` (not 0) and saved.

    ``checkpoint`` holds the state after ``iteration`` steps; None if nothing was loaded or saved yet.
    """
    reason = StopRequest(request).reason
    if checkpoint is None:
        return StoppedEarly(f"{reason} during startup; the same command starts the run again")
    return StoppedEarly(f"{reason} after iteration {iteration}; the same command resumes from {checkpoint}")
