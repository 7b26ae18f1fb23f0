"""Decorator of loops that numba compiles. A module that uses it needs numba, of the extra ``fast``, when imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(function: Loop) -> Loop:
    """``function`` as machine code, which numba keeps on disk if this package's folder or its cache is writable."""
    try:
        return cast(Loop, njit(function, cache=True))
    except RuntimeError:
        return cast(Loop, njit(function))
