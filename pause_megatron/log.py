"""Logging: human-readable lines on standard error, and JSON lines on disk.

Under a launcher only rank 0 logs, except for messages about one rank.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

_STARTED = time.monotonic()
LINE = re.compile(r"\[ *\d+\.\ds\] ")
"""Start of each line of :func:`info`; a parent process uses it to tell them from the output of libraries."""


def global_rank() -> int:
    """Return this process's rank from the launcher's environment (torchrun, MPI, Slurm); 0 without a launcher.

    ``SLURM_PROCID`` comes last: under ``mpirun`` in a batch script every rank inherits the script's value, 0.
    """
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def info(message: str) -> None:
    """Log ``message`` with the seconds since the process started, on rank 0 only."""
    if global_rank() == 0:
        write_line(f"[{time.monotonic() - _STARTED:7.1f}s] {message}")


def write_line(line: str) -> None:
    """Write ``line`` to standard error, or nowhere once its reader has gone, as in ``2>&1 | head``; the run goes on."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)  # also for libraries, and for what is still buffered
        os.close(nowhere)


def warn(message: str) -> None:
    """Log ``message`` as a warning, on rank 0 only."""
    info(f"warning: {message}")


def format_duration(seconds: float) -> str:
    """Format ``seconds`` in the two largest units, for example "3 d 04 h", "1 h 02 min", "5 min 09 s" or "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class JsonLines:
    """Appends one JSON object per line to ``path``; other processes may read the file at the same time.

    Opening an existing file removes an incomplete last line, which a full disk or a crash leaves.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the life of the run

    def write(self, record: dict[str, Any]) -> None:
        """Append ``record`` and flush."""
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file that :class:`JsonLines` wrote, without an incomplete last line."""
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                records.append(json.loads(line))
    return records
