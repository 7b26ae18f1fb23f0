"""A small file system of its own, for tests of what happens when it is full."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a file system of ``size`` (as in "4m") at ``path``; gives what changes its size. Skips where it cannot."""
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
