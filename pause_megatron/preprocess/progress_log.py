"""Progress of a preprocessing run: each worker appends to its own log, and the first process reads all logs.

``progress/HOST-PID.jsonl`` in the output folder has one :class:`ProgressEntry` a line. Files work alike for processes,
MPI ranks and the tasks of a Slurm array.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from pause_megatron import log

PROGRESS_FOLDER = "progress"

_SECONDS_BETWEEN_ENTRIES = 5.0
_SECONDS_BETWEEN_LINES = 10.0


class ProgressEntry(msgspec.Struct, frozen=True, kw_only=True):
    """State of one shard: one line of a log."""

    time: float
    """Seconds since 1970."""
    shard: str
    state: Literal["started", "running", "done", "failed"]
    documents: int = 0
    tokens: int = 0
    """Real tokens so far, including ends of documents."""
    read_bytes: int = 0
    """Unpacked input so far."""
    input_bytes: int = 0
    """Stored size of the shard's input; 0 if unknown."""
    seconds: float = 0.0
    """Time since the shard was started."""
    error: str | None = None


_decoder = msgspec.json.Decoder(ProgressEntry)


class ShardProgress:
    """Log of one shard in a worker: a context around the work."""

    def __init__(self, folder: Path, shard: str, input_bytes: int) -> None:
        self._log = log.JsonLines(folder / f"{socket.gethostname()}-{os.getpid()}.jsonl")
        self._fixed: dict[str, Any] = {"shard": shard, "input_bytes": input_bytes}
        self._counts = {"documents": 0, "tokens": 0, "read_bytes": 0}
        self._started = self._written = time.monotonic()

    def __enter__(self) -> ShardProgress:
        self._write("started")
        return self

    def add(self, **counts: int) -> None:
        """Count one block's ``documents``, ``tokens`` and ``read_bytes``."""
        for name, count in counts.items():
            self._counts[name] += count
        if time.monotonic() - self._written > _SECONDS_BETWEEN_ENTRIES:
            self._write("running")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._write("done") if error is None else self._write("failed", error=str(error) or type(error).__name__)
        self._log.close()

    def _write(self, state: str, **more: Any) -> None:
        self._written = time.monotonic()
        more["seconds"] = round(self._written - self._started, 3)
        self._log.write({"time": time.time(), "state": state, **self._fixed, **self._counts, **more})


class RunProgress:
    """Latest state of each shard of a run, from the entries logged since this object was made."""

    def __init__(self, folder: Path, shards: Mapping[str, int]) -> None:
        """``shards`` maps the name of each shard of the run to the stored size of its input in bytes, 0 if unknown."""
        self._folder = folder
        self._sizes = shards
        self._offsets = {path: path.stat().st_size for path in self._logs()}
        self._started = time.monotonic()
        self.entries: dict[str, ProgressEntry] = {}

    def _logs(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def poll(self) -> None:
        """Read the entries logged since the last call."""
        for path in self._logs():
            with open(path, "rb") as file:
                file.seek(self._offsets.get(path, 0))
                content = file.read()
            complete = content[: content.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(complete)
            for entry in _decoder.decode_lines(complete):
                if entry.shard in self._sizes:
                    self.entries[entry.shard] = entry

    def summary(self) -> str:
        """Return one line: shards done and running, documents, tokens, rates, and the time left."""
        states = [entry.state for entry in self.entries.values()]
        seconds = max(time.monotonic() - self._started, 1e-3)
        documents, tokens, read = (
            sum(getattr(entry, name) for entry in self.entries.values())
            for name in ("documents", "tokens", "read_bytes")
        )
        running = states.count("started") + states.count("running")
        left = self.seconds_left(seconds)
        return (
            f"{states.count('done')} of {len(self._sizes)} shards done, {running} running; "
            f"{documents} documents, {tokens / 1e6:.2f} million tokens; "
            f"{documents / seconds:.0f} documents/s, {tokens / seconds / 1e6:.2f} million tokens/s, "
            f"{read / seconds / 1e6:.1f} MB/s; {'unknown time' if left is None else log.format_duration(left)} left"
        )

    def seconds_left(self, seconds: float) -> float | None:
        """Return the seconds until the end at the speed of the first ``seconds``; None until a shard is done."""
        done = [entry for entry in self.entries.values() if entry.state == "done"]
        if not done:
            return None
        weights = self._sizes if all(self._sizes.values()) else dict.fromkeys(self._sizes, 1)
        finished = float(sum(weights[entry.shard] for entry in done))
        # A running shard counts by the bytes it has read, relative to those that finished shards read per weight.
        read_by_weight = sum(entry.read_bytes for entry in done) / finished
        if read_by_weight:
            for entry in self.entries.values():
                if entry.state in ("started", "running"):
                    finished += min(entry.read_bytes / read_by_weight, weights[entry.shard])
        return (sum(weights.values()) - finished) * seconds / finished


@contextmanager
def report_progress(progress: RunProgress) -> Iterator[None]:
    """Log a summary every few seconds while the block runs, and one at its end."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LINES):
            progress.poll()
            log.info(progress.summary())

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    progress.poll()
    log.info(progress.summary())
