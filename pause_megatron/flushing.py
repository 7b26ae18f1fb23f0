"""Flushes files of a new folder to disk in a thread, while the program computes something else."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_threads: dict[Path, tuple[ThreadPoolExecutor, list[Future[None]]]] = {}
"""Folder to the thread that flushes its files, and the flushes so far."""


@contextmanager
def flushing(folder: Path) -> Iterator[None]:
    """Flush the files given to :func:`flush_meanwhile` in a thread, and wait for them after the block.

    Raises ``OSError`` if a flush failed.
    """
    flushes: list[Future[None]] = []
    with ThreadPoolExecutor(1, "flush") as thread:
        _threads[folder] = thread, flushes
        try:
            yield
        finally:
            del _threads[folder]
    for flush in flushes:
        flush.result()


def is_flushed_with_folder(path: Path) -> bool:
    """Whether ``path`` is in a folder that is :func:`flushing`."""
    return _folder_of(path) is not None


def flush_meanwhile(file: IO[Any]) -> Future[None] | None:
    """Flush what has been written to the open ``file`` so far, if it is in a folder that is :func:`flushing`.

    Returns the flush, which that folder waits for; elsewhere None.
    """
    folder = _folder_of(Path(file.name))
    if folder is None:
        return None
    file.flush()
    thread, flushes = _threads[folder]
    flushes.append(thread.submit(_flush_and_close, os.dup(file.fileno())))
    return flushes[-1]


def _folder_of(path: Path) -> Path | None:
    return next((parent for parent in path.parents if parent in _threads), None)


def _flush_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
