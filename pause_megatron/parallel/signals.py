"""The signals that ask a run to save and leave, from the first moment of a process to its last.

``SIGTERM`` ends jobs everywhere, ``SIGUSR1`` is the warning Slurm sends when asked to (``--signal``), ``SIGINT`` is
Ctrl-C. Importing the libraries of a run takes seconds in which nobody can answer, so the first two are held back by the
kernel until somebody takes them; Ctrl-C, behind which a person sits, ends such a process at once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STARTED = time.monotonic()
"""When this process started, as nearly as Python can say: the command line imports this module first."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What asks a run to save and leave."""
HELD_BACK = (signal.SIGTERM, signal.SIGUSR1)
"""Those of them that wait for a process that is still starting."""


@contextmanager
def stop_signals_held_back() -> Iterator[None]:
    """Have :data:`HELD_BACK` wait until :func:`stop_signals_to` takes them, or else for the end of the block.

    Children started meanwhile hold them back from birth.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_signals_to(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Give the stop signals, and first those held back so far, to ``handler``; whoever had them gets them back."""
    previous = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    try:
        yield
    finally:
        for number, whose in previous.items():
            signal.signal(number, whose)


def ignore_stop_signals() -> None:
    """For the last moments of a process that has done what they ask for: let none of them change how it ends."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
