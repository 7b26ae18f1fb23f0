"""Child processes that exit when their parent exits, even if it is killed.

Local multi-process training, grids and the demo start children. A child that outlived its parent would write into the
same folders as the parent's next run. Each child therefore reads from a pipe of its parent and exits at its end.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

PARENT_PIPE = "PAUSE_MEGATRON_PARENT_PIPE"
"""Environment variable of a child whose standard input is the parent's pipe."""


def available_cores() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_child(command: Sequence[str], environment: Mapping[str, str], **options: object) -> subprocess.Popen[str]:
    """Start ``command``, a command of this project, as a child that exits with this process.

    ``environment`` extends this process's environment; ``options`` go to :class:`subprocess.Popen`.
    """
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        list(command), stdin=subprocess.PIPE, env={**os.environ, **environment, PARENT_PIPE: "1"}, text=True, **options
    )


def end_with_parent() -> None:
    """Exit when the parent exits, if :func:`start_child` started this process. Every command calls this first."""
    if os.environ.pop(PARENT_PIPE, None):
        threading.Thread(target=_exit_at_end_of_pipe, daemon=True).start()


def _exit_at_end_of_pipe() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
