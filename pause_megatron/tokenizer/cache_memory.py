"""Memory of a library's cache, measured as the growth of this process, because the library does not report it."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_PAGES = Path("/proc/self/statm")  # pages of address space, resident pages, ...


def resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes; None if the system has no ``/proc``."""
    try:
        return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def return_freed_memory() -> None:
    """Return memory that was freed to the system, so that :func:`resident_bytes` shows it; without glibc nothing
    changes."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
