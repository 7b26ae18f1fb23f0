"""``metrics.jsonl``: every record of a run, one JSON object a line, over all of its processes' lives."""

from __future__ import annotations

from pathlib import Path

from pause_megatron import log

METRICS_FILE = "metrics.jsonl"


def open_metrics_file(run: Path) -> log.JsonLines:
    """The metrics file of the folder ``run``, to append to."""
    return log.JsonLines(run / METRICS_FILE)


def count_restarts(run: Path) -> int:
    """How often the run in the folder ``run`` has been resumed so far."""
    path = run / METRICS_FILE
    return sum(record["kind"] == "resumed" for record in log.read_json_lines(path)) if path.exists() else 0
