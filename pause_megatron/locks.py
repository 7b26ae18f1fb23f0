"""Exclusive lock on a folder, released by the kernel when its owner exits or crashes.

A lock file that remains after a crash does not lock anything. Network file systems forward such locks: NFS as
byte-range locks, Lustre if mounted with ``flock``, BeeGFS with ``tuneUseGlobalFileLocks``. After the loss of a machine
the server keeps its locks for a while, for example 90 s (the default lease) on NFSv4.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from pause_megatron import log
from pause_megatron.errors import UserError, system_error

LOCK_FILE = ".lock"
"""Name of the lock file in the folder."""
PATIENCE_SECONDS = 10.0
"""Wait for the last processes of an owner that is exiting."""
_PATIENCE_WITH_OWN_JOB_SECONDS = 180.0
"""Wait for the lock of an earlier start of the same Slurm job. If its machine is lost, a file server releases the lock
only when the lease ends, for example after 90 s under NFSv4."""
_POLL_SECONDS = 0.1


def patience_with(owner: str) -> float:
    """Return the seconds to wait for the lock that ``owner`` holds, given its description."""
    own_job = f"Slurm job {os.environ.get('SLURM_JOB_ID')}"
    return _PATIENCE_WITH_OWN_JOB_SECONDS if own_job in owner.split(", ") else PATIENCE_SECONDS


@contextmanager
def sole_owner(
    folder: Path, *, refusal: str, owner: str = "", patience: Callable[[str], float] = patience_with
) -> Iterator[int | None]:
    """Hold the lock of ``folder``; yields its file descriptor, or None if the file system does not support locks.

    Without locks, logs a warning. Children that inherit the descriptor hold the lock too.

    Args:
        folder: an existing folder.
        refusal: message of the error if another process holds the lock.
        owner: description of this process in the lock file, after its host name and process id.
        patience: seconds to wait for the other owner, given its description.

    Raises :class:`UserError` with ``refusal`` and the description of the other owner, and if this process may not write
    to ``folder``.
    """
    with _opened(folder / LOCK_FILE) as file:
        if _locked(file, refusal, patience):
            own = ", ".join(filter(None, (socket.gethostname(), f"pid {os.getpid()}", owner)))
            with suppress(OSError):  # a full disk: the lock works without a description of its owner
                file.truncate(0)
                file.write(own.encode())
            yield file.fileno()
        else:
            yield None


def _opened(path: Path) -> FileIO:
    try:
        return open(path, "ab+", buffering=0)
    except OSError as error:
        raise (system_error(error) or error) from error


def _locked(file: FileIO, refusal: str, patience: Callable[[str], float]) -> bool:
    """Wait for the lock; return False if the file system does not support locks."""
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            file.seek(0)
            other = file.read().decode(errors="replace").strip()
            if time.monotonic() - started > patience(other):
                raise UserError(f"{refusal} ({other})") from None
            time.sleep(_POLL_SECONDS)
        except OSError as error:  # ENOLCK, EOPNOTSUPP, ENOSYS and others, by file system
            log.warn(f"{file.name}: cannot be locked ({error.strerror}); start no second command that writes there")
            return False
