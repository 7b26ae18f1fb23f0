"""Freed memory that stays with the process for its next arrays; otherwise the system clears every page again."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h


def keep_freed_memory(*, total: int | None = None, largest: int | None = None) -> None:
    """Keep up to ``total`` bytes of freed memory, of arrays of at most ``largest`` bytes each; None: any number.

    Without glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, -1 if total is None else total)
    if largest is None:
        mallopt(_M_MMAP_MAX, 0)
    else:
        mallopt(_M_MMAP_THRESHOLD, largest)
