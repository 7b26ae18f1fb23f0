"""One folder, one owner: a lock that ends with the processes that hold it, however they end.

The kernel holds the lock, not the file that it is on: what is left of that file after a crash locks nothing. Network
file systems pass such locks on: NFS as the byte ranges of its protocol, Lustre where it is mounted with ``flock``,
BeeGFS with ``tuneUseGlobalFileLocks``. When a whole machine is lost, the server gives its locks up only after a while:
NFSv4 after its lease, 90 s by default.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pause_megatron.errors import UserError

LOCK_FILE = ".lock"
"""Name of the lock in a folder that has one owner."""
PATIENCE_SECONDS = 10.0
"""How long to wait for the last processes of an owner that is ending."""
_POLL_SECONDS = 0.1


@contextmanager
def sole_owner(
    folder: Path, *, refusal: str, owner: str = "", patience: Callable[[str], float] = lambda _: PATIENCE_SECONDS
) -> Iterator[bool]:
    """Hold ``folder``, which has to exist, for this process and its forks; yields whether its file system knows locks.

    Args:
        folder: what has one owner at a time.
        refusal: what to say when another has it.
        owner: more about this process than its machine and id.
        patience: seconds to wait for the other to end, by what it says of itself.

    Raises :class:`UserError` with ``refusal`` and who the other is.
    """
    started = time.monotonic()
    with open(folder / LOCK_FILE, "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                other = file.read().strip()
                if time.monotonic() - started > patience(other):
                    raise UserError(f"{refusal} ({other})") from None
                time.sleep(_POLL_SECONDS)
            except OSError:
                yield False
                return
        file.truncate(0)
        file.write(", ".join(filter(None, (socket.gethostname(), f"pid {os.getpid()}", owner))))
        file.flush()
        yield True
