"""Memory of this process: its size, and its freed memory. Where the system cannot do it, nothing happens."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_MOST_MAPPINGS = 65536  # glibc's default
_PAGES = Path("/proc/self/statm")  # pages of address space, resident pages, ...


def resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes; None if the system has no ``/proc``."""
    try:
        return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def keep_freed_memory(*, total: int | None = None, largest: int | None = None) -> None:
    """Keep freed memory for the next arrays; otherwise the system clears every page again.

    At most ``total`` bytes are kept, of arrays of at most ``largest`` bytes each; None: any number. Needs glibc.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, -1 if total is None else total)
        if largest is None:
            mallopt(_M_MMAP_MAX, 0)
        else:
            mallopt(_M_MMAP_MAX, _MOST_MAPPINGS)  # an earlier call may have set it to 0
            mallopt(_M_MMAP_THRESHOLD, largest)


def return_freed_memory() -> None:
    """Return freed memory to the system, so that :func:`resident_bytes` shows it. Needs glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
