"""A small file system that tests can fill."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a file system of ``size`` (for example "4m") at ``path``; yields a function that resizes it.

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
