"""Child processes that never outlive whoever started them.

Local multi-process training and the demo start children. A child that went on after its parent was killed would write
into the same folders as the parent's next run, so each child holds the reading end of a pipe and ends when the parent,
however it died, has let go of the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

PARENT_PIPE = "PAUSE_MEGATRON_PARENT_PIPE"
"""Environment variable that tells a child its standard input is the parent's pipe."""


def available_cores() -> int:
    """Processors this process may run on: how many busy children make sense."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_child(command: Sequence[str], environment: Mapping[str, str], **options: object) -> subprocess.Popen[str]:
    """Start ``command``, a command of this project, as a child that ends with this process.

    ``environment`` is added to this process's; ``options`` are :class:`subprocess.Popen`'s.
    """
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        list(command),
        stdin=subprocess.PIPE,
        env={**os.environ, **environment, PARENT_PIPE: "1"},
        text=True,
        **options,
    )


def end_with_parent() -> None:
    """Called first by every command: watch the parent's pipe, if there is one."""
    if os.environ.pop(PARENT_PIPE, None):
        threading.Thread(target=_exit_at_end_of_pipe, daemon=True).start()


def _exit_at_end_of_pipe() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
