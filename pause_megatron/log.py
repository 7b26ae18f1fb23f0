"""What a run says: lines for a person on standard error, and JSON lines for programs.

Under a launcher only rank 0 speaks, unless a message concerns a rank itself.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

_STARTED = time.monotonic()
LINE = re.compile(r"\[ *\d+\.\ds\] ")
"""How every line of :func:`info` begins, so that a parent can tell it from what libraries print."""


def global_rank() -> int:
    """This process's rank as its launcher set it in the environment (torchrun, MPI, Slurm); 0 without one.

    Slurm's comes last: what a batch script starts by ``mpirun`` has the script's own, 0, on every rank.
    """
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def restart_clock() -> None:
    """Count the seconds from now: a forked process starts here, not where its parent did."""
    global _STARTED
    _STARTED = time.monotonic()


def info(message: str) -> None:
    """Tell a person what is happening, with the seconds since the process started; rank 0 only."""
    if global_rank() == 0:
        print(f"[{time.monotonic() - _STARTED:7.1f}s] {message}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Like :func:`info`, marked as a warning."""
    info(f"warning: {message}")


class JsonLines:
    """Appends one JSON object a line to ``path``; a reader may follow the file while it grows.

    A last line that a full disk or a crash cut short is removed, or it would run into the first new one.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the life of the run

    def write(self, record: dict[str, Any]) -> None:
        """Append one record and flush it."""
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read what :class:`JsonLines` wrote. A last line cut short by a crash is left out."""
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                records.append(json.loads(line))
    return records
