"""Logging: human-readable lines on standard error and in ``--log-file``, and JSON lines on disk.

Under a launcher only rank 0 logs, except for messages about one rank. A line has the time, the host and the seconds
since the process started, such as ``2026-01-31 12:00:05 gpu017 [   19.2s] message``.
"""

import errno
import io
import json
import logging
import os
import re
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pause_megatron.errors import UserError

_STARTED = time.monotonic()
_READER_LEFT = (errno.EPIPE, errno.EIO)
"""Errors of writing to a pipe without a reader, and to a terminal that was closed."""
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ \[ *\d+\.\ds\] ")
"""Start of each line of :func:`info`; a parent process uses it to tell them from the output of libraries."""


@dataclass
class _Settings:
    quiet: bool = False
    file: Path | None = None
    descriptor: int | None = None
    """Of ``file``, open for appending; each line is one write, so processes may share the file."""


_settings = _Settings()


def configure(*, quiet: bool, file: Path | None) -> None:
    """Set up the log of this process: ``quiet`` shows only warnings and errors, ``file`` gets every line.

    Commands call it before anything is logged. The file is appended to and its folder is created. Raises
    :class:`UserError` if it cannot be opened.
    """
    if _settings.descriptor is not None:
        os.close(_settings.descriptor)
    _settings.quiet, _settings.file, _settings.descriptor = quiet, file, None
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _settings.descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"--log-file {file}: {error.strerror}; give a file that can be written") from error


def flags() -> list[str]:
    """Return the flags with which another command logs as this process does."""
    file = [] if _settings.file is None else ["--log-file", str(_settings.file)]
    return ["--quiet", *file] if _settings.quiet else file


def global_rank() -> int:
    """Return this process's rank from the launcher's environment (torchrun, MPI, Slurm); 0 without a launcher.

    ``SLURM_PROCID`` comes last: under ``mpirun`` in a batch script every rank inherits the script's value, 0.
    """
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"):
        with suppress(ValueError):  # empty or malformed; launcher detection refuses the latter
            return int(os.environ.get(name, ""))
    return 0


def info(message: str) -> None:
    """Log ``message`` with the time, the host and the seconds since the process started, on rank 0 only."""
    if global_rank() == 0:
        _show(_stamped(message), stamped=True, quiet=_settings.quiet)


def warn(message: str) -> None:
    """Log ``message`` as a warning, on rank 0 only."""
    if global_rank() == 0:
        _show(_stamped(f"warning: {message}"), stamped=True, quiet=False)


def progress(line: str) -> None:
    """Log ``line`` as it is, for example that of a child process; the log file also has the time and the host."""
    _show(line, stamped=False, quiet=_settings.quiet)


def quiet_libraries() -> None:
    """Switch off the progress bars and advice of libraries, unless the environment sets them; for a command's process.

    The libraries read the variables when they are first imported, so call this before.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("lm_eval", "accelerate"):  # the latter warns of weights that stay on disk, as a comparison asks for
        logging.getLogger(name).setLevel(logging.ERROR)
    # accelerate imports DeepSpeed if it is installed, which prints its choice of device to standard output.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def write_line(line: str) -> None:
    """Log ``line`` as it is, also under ``--quiet``: errors."""
    _show(line, stamped=False, quiet=False)


def _stamped(message: str) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"{now} {socket.gethostname().partition('.')[0]} [{time.monotonic() - _STARTED:7.1f}s] {message}"


def _show(text: str, *, stamped: bool, quiet: bool) -> None:
    """Write ``text`` to standard error unless ``quiet``, in one write so that lines of threads stay apart, and to the
    log file."""
    if not quiet:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    if _settings.descriptor is not None and text.strip():
        line = text if stamped else _stamped(text.strip("\n"))
        with suppress(OSError):  # a full disk must not end a run
            os.write(_settings.descriptor, f"{line}\n".encode(errors="backslashreplace"))


class _OutputFile(io.FileIO):
    """Standard output or standard error, without errors that must not end a run."""

    def write(self, data: Any) -> int:
        """Write ``data``, or drop it if it is a log line or if its reader has left."""
        try:
            return super().write(data)
        except OSError as error:
            is_log, is_full = self.fileno() == 2, error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not (is_log and is_full):  # a full disk may have room for later log lines
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())  # also for libraries, and for what is still buffered
                os.close(nowhere)
            if not is_log and error.errno not in _READER_LEFT:
                raise  # results are lost
            return len(data)


def keep_output_from_failing() -> None:
    """Let a run continue when nobody can read its output any more. Every command calls this first.

    The reader of a pipe may leave (``2>&1 | head``), a terminal may close, the disk of a log may be full, and a daemon
    may start this process without standard streams.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # otherwise the next file to be opened gets this number, and the output of libraries
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # otherwise a test captures it
            file = io.BufferedWriter(_OutputFile(number, "w", closefd=False))
            encoding, errors = (stream.encoding, stream.errors) if stream else ("utf-8", "backslashreplace")
            lines = number == 2 or os.isatty(number)
            setattr(sys, name, io.TextIOWrapper(file, encoding, errors, line_buffering=lines))


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
            if not line.endswith("\n"):
                break  # being written; iterating further would yield the rest of it as a line
            records.append(json.loads(line))
    return records
