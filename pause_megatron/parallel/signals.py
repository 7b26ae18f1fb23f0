"""Signals that ask a run to save and stop.

``SIGTERM`` ends jobs everywhere, Slurm sends ``SIGUSR1`` as a warning if asked to (``--signal``), the kernel sends
``SIGHUP`` when a terminal or an ssh connection closes, and Ctrl-C is ``SIGINT``. A process spends its first seconds
importing libraries and cannot answer yet. The kernel therefore holds back the first three until a handler is installed;
Ctrl-C ends a starting process at once. ``nohup`` makes a process ignore ``SIGHUP``, which remains so.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STARTED = time.monotonic()
"""Start of this process; the command line imports this module first."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
HELD_BACK = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Stop signals that wait until a starting process can handle them."""


@contextmanager
def stop_signals_held_back() -> Iterator[None]:
    """Block :data:`HELD_BACK` until :func:`stop_signals_to` handles them, or until the end of the block.

    Children that start inside the block inherit the mask.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_signals_to(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle the stop signals with ``handler``, first those held back so far; restore the old handlers at the end."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    handled = [number for number in STOP_SIGNALS if not (ignored and number == signal.SIGHUP)]
    previous = {number: signal.signal(number, handler) for number in handled}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    try:
        yield
    finally:
        for number, old_handler in previous.items():
            signal.signal(number, old_handler)


def ignore_stop_signals() -> None:
    """Ignore the stop signals from now on, so that they cannot change the exit code of a process that has saved."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
