"""Unlucky file systems: one that tests can fill, and one without locks."""

from __future__ import annotations

import ctypes
import platform
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a file system of ``size`` (for example "4m") at ``path``; yields a function that resizes it.

    The function also takes further options, for example "4m,ro", which makes it read-only.

    Skips the test if mounting is not allowed.
    """
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here; a full disk was not checked ({mounted.stderr.strip()})")
    try:
        yield lambda other: _resize(path, other)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _resize(path: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


_FLOCK = {"x86_64": 73, "aarch64": 32}
"""Numbers of the system call."""
_SET_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_FAIL, _ALLOW = 0x00050000, 0x7FFF0000


def refuse_locks(error: int) -> None:
    """Let every ``flock`` of this process fail with the number ``error`` from now on, by a filter of Linux's seccomp.

    Raises ``OSError`` if this kernel has none.
    """
    number = _FLOCK[platform.machine()]
    steps = [(_LOAD, 0, 0, 0), (_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | error), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.prctl(_SET_SECCOMP, _FILTER_MODE, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filters here")
