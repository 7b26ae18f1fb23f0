"""``metrics.jsonl``: every record of a run, one JSON object a line, over all of its processes' lives."""

from __future__ import annotations

import os
from pathlib import Path

from pause_megatron import log

METRICS_FILE = "metrics.jsonl"


def open_metrics_file(run: Path) -> log.JsonLines:
    """The metrics file of the folder ``run``, to append to.

    A last line that a full disk or a crash cut short is removed, or it would run into the first new one.
    """
    path = run / METRICS_FILE
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
    return log.JsonLines(path)


def count_restarts(run: Path) -> int:
    """How often the run in the folder ``run`` has been resumed so far."""
    path = run / METRICS_FILE
    return sum(record["kind"] == "resumed" for record in log.read_json_lines(path)) if path.exists() else 0
