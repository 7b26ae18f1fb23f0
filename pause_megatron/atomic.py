"""Atomic writes of files and folders: written under a temporary name, flushed to disk, then renamed.

A final name therefore always has complete content. All output of this project (datasets, checkpoints, exports, results)
is written by this module.
"""

import fcntl
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, Any

from pause_megatron.errors import UserError, system_error
from pause_megatron.flushing import flushing, is_flushed_with_folder

TEMPORARY_SUFFIX = ".tmp"
"""Suffix of incomplete files and folders."""


def temporary_name(path: Path) -> Path:
    """Return a new hidden name in the folder of ``path``; on one file system a rename is atomic."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")


def final_name(name: str) -> str:
    """Return the name of the file that :func:`temporary_name` made ``name`` for; other names as they are."""
    if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX):
        return name.removesuffix(TEMPORARY_SUFFIX)[1:].rpartition(".")[0] or name
    return name


def fsync_path(path: Path) -> None:
    """Flush a file or a folder entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_into_place(temporary: Path, path: Path, *, flush: bool = True) -> None:
    """Rename ``temporary`` to ``path``, and ``flush`` the rename. Replaces an existing file."""
    temporary.replace(path)
    if flush:
        fsync_path(path.parent)


@contextmanager
def write_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that becomes ``path`` if the block succeeds and is removed otherwise.

    The open file is locked, so that :func:`sweep` can tell it from the files of killed processes. A :func:`new_folder`
    flushes all of its files to disk before it appears, so a file in one is not flushed here.

    Raises :class:`UserError` when the system refuses to write, for example because the disk is full.
    """
    temporary = temporary_name(path)
    is_flushed_later = is_flushed_with_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_locked(temporary, mode) as file:
            yield file
            file.flush()
            if not is_flushed_later:
                os.fsync(file.fileno())
        rename_into_place(temporary, path, flush=not is_flushed_later)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _raise_if_refused(path, error)
        raise


def _raise_if_refused(path: Path, error: BaseException) -> None:
    """Raise :class:`UserError` if the system refused to write at ``path``: not for an error of a file that is read."""
    named = getattr(error, "filename", None)
    is_written = named is None or Path(str(named)).is_relative_to(path.parent)
    if is_written and (refused := system_error(error, path)):
        raise refused from error


def _open_locked(path: Path, mode: str) -> IO[Any]:
    while True:
        file = open(path, mode, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115 - the caller closes it
        _lock(file.fileno())
        if path.exists():  # no concurrent sweep removed it between open and lock
            return file
        file.close()


@contextmanager
def _made_and_locked(folder: Path) -> Iterator[int]:
    """Create ``folder`` and hold its lock in the block; yields its descriptor."""
    while True:
        folder.mkdir()
        with suppress(FileNotFoundError):  # a concurrent sweep removed it
            descriptor = os.open(folder, os.O_RDONLY)
            _lock(descriptor)
            if folder.exists():
                break
            os.close(descriptor)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder next to ``path``, a name that it stands for, and remove it after the block.

    The folder is locked, so that :func:`sweep` can tell it from those of killed processes. Those for the same name are
    removed first. Raises :class:`UserError` when the system refuses to make it.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        with _made_and_locked(temporary):
            yield temporary
    except OSError as error:
        _raise_if_refused(path, error)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _lock(descriptor: int) -> None:
    """Lock a new temporary file or folder. If a sweep found it first, wait until the sweep has removed it."""
    with suppress(OSError):  # some network file systems have no locks; sweep removes nothing there
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def sweep(folder: Path, name: str | None = None) -> list[Path]:
    """Remove temporary files and folders of killed processes from ``folder``; return those that are still in use.

    With ``name``, only those that would have become ``folder / name``.
    """
    alive = []
    pattern = f".*{TEMPORARY_SUFFIX}" if name is None else f".{glob.escape(name)}.*{TEMPORARY_SUFFIX}"
    for path in sorted(folder.glob(pattern)):
        with suppress(OSError), _opened(path) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alive.append(path)
            else:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return alive


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file or folder; files for writing, because some network file systems require that for locks."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically. Raises :class:`UserError` for a file name that is not UTF-8."""
    with write_file(path, "w") as file:
        try:
            file.write(text)
        except UnicodeEncodeError as error:
            found = error.object[max(error.start - 40, 0) : error.end + 10]
            raise UserError(f"{path}: cannot hold {found!r}, which is not UTF-8; rename that file or folder") from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically. Paths become strings."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=_path_as_string) + "\n")


def _path_as_string(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Refuse other processes that want to write ``path``, a file, for the time of the block.

    Removes the files of killed processes first. Raises :class:`UserError` if another process has reserved or is writing
    ``path``. File systems without locks reserve nothing.
    """
    mark = temporary_name(path)
    with ExitStack() as stack:
        stack.callback(lambda: mark.unlink(missing_ok=True))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_open_locked(mark, "wb"))
        except OSError as error:
            _raise_if_refused(path, error)
            raise
        if others := [other for other in sweep(path.parent, path.name) if other != mark]:
            raise _in_use(path, others)
        yield


def _in_use(path: Path, alive: list[Path]) -> UserError:
    return UserError(f"{path}: another process is writing it, in {alive[0]}; wait for it, or choose another name")


def _mode_of_new_files(folder: Path) -> int:
    """Return the permissions that a new file in ``folder`` gets; asking for the umask itself would change it."""
    probe = temporary_name(folder / "probe")
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode


@contextmanager
def new_folder(path: Path, *, alone: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds and is removed otherwise.

    The folder is locked, so that :func:`sweep` can tell it from the folders of killed processes. Those with the same
    name are removed first. All files get the permissions that the umask allows, because some libraries write weights
    that only their owner can read.

    Raises :class:`UserError` before writing anything if ``path`` exists (nothing is overwritten) or, if it should be
    written ``alone``, another process is writing it; and when the system refuses to write, for example because the disk
    is full.
    """
    exists = f"{path}: exists already; choose another folder or remove it"
    if path.exists():
        raise UserError(exists)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (alive := sweep(path.parent, path.name)) and alone:
            raise _in_use(path, alive)
        with _made_and_locked(temporary) as descriptor:
            with flushing(temporary):
                yield temporary
            mode = _mode_of_new_files(temporary)
            for entry in temporary.rglob("*"):
                if entry.is_file():
                    runs = entry.stat().st_mode & 0o100  # a script stays executable, for those who may read it
                    entry.chmod(mode | (mode & 0o444) >> 2 if runs else mode)
                fsync_path(entry)
            os.fsync(descriptor)
            try:
                rename_into_place(temporary, path)
            except OSError as error:
                if path.exists():  # another process was faster
                    raise UserError(exists) from error
                raise
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _raise_if_refused(path, error)
        raise
