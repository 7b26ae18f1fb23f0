"""Requests to save and leave: from Slurm, from a person, or because the time is up.

A signal may reach only some processes of a run, or reach them at different steps, and a process that left alone would
leave the others waiting. So a signal is only noted here; the loop exchanges :attr:`StopRequests.request` with
:func:`~pause_megatron.parallel.collectives.max_over_ranks` once a step, and all processes act on the largest.
"""

from __future__ import annotations

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
    """Why a process is to save and leave; of several reasons the largest is the run's."""

    NONE = 0
    TIME_IS_UP = 1
    SIGUSR1 = 2
    SIGTERM = 3
    SIGINT = 4

    @property
    def reason(self) -> str:
        """For a person: what asked for it."""
        return "--exit-duration is over" if self is StopRequest.TIME_IS_UP else f"stopped by {self.name}"


class StopRequests:
    """What asks this process to stop, from the beginning of its block to the end.

    However many signals come, none interrupts the saving that the first one asks for; only Ctrl-C, pressed again, ends
    the process at once. When the block is left by :class:`StoppedEarly`, further signals are ignored for good, so that
    they do not change the exit code; else whoever handled them before gets them back.
    """

    def __init__(self, exit_duration: float) -> None:
        """``exit_duration``: minutes after which the time is up, counted from the start of the process; 0: never."""
        self._ends = STARTED + exit_duration * 60 if exit_duration else float("inf")
        self._signalled = StopRequest.NONE
        self._handlers = ExitStack()

    def __enter__(self) -> Self:
        self._handlers.enter_context(stop_signals_to(self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with stop_signals_held_back():  # none slips through between one handler and the next
            self._handlers.close()
            if isinstance(error, StoppedEarly):
                ignore_stop_signals()

    @property
    def request(self) -> StopRequest:
        """What this process has been asked so far; a number to be exchanged with the other processes'."""
        time_is_up = StopRequest.TIME_IS_UP if time.monotonic() >= self._ends else StopRequest.NONE
        return max(self._signalled, time_is_up)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = max(self._signalled, StopRequest[signal.Signals(number).name])
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped_early(request: int, *, iteration: int, checkpoint: Path | None) -> StoppedEarly:
    """What to raise when all processes have agreed on ``request`` (not 0) and saved what there was to save.

    ``iteration``: steps done; ``checkpoint``: the one that holds them, None when nothing was read or saved yet.
    """
    reason = StopRequest(request).reason
    if checkpoint is None:
        return StoppedEarly(f"{reason} while starting; the same command starts again")
    return StoppedEarly(f"{reason} after iteration {iteration}; the same command continues from {checkpoint}")
