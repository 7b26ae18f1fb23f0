"""What a run leaves behind about a bad batch: a line for a person, and all its documents in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pause_megatron.config.serialize import to_plain
from pause_megatron.data.provenance import Origin
from pause_megatron.errors import UserError
from pause_megatron.log import JsonLines
from pause_megatron.training.faults.bad_batches import Verdict

BAD_BATCHES_FILE = "bad-batches.jsonl"
"""In the run folder: one line for each bad batch, with the documents of each of its samples."""
_NAMED = 3


def write_bad_batch(run: Path, iteration: int, verdict: Verdict, batch: Sequence[Origin]) -> None:
    """Append a bad batch to :data:`BAD_BATCHES_FILE` of the folder ``run``; for rank 0 alone.

    ``batch``: the documents of each sample of the global batch, in order.
    """
    record: dict[str, Any] = {"iteration": iteration, "reason": verdict.reason, "dropped": not verdict.ends_the_run}
    lines = JsonLines(run / BAD_BATCHES_FILE)
    lines.write({**record, "samples": to_plain(batch)})
    lines.close()


def describe_bad_batch(run: Path, iteration: int, verdict: Verdict, batch: Sequence[Origin]) -> str:
    """The line that says what is wrong with a batch, some of what it was made of, and where the rest is listed."""
    named = [str(documents) for sample in batch for documents in sample]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return (
        f"iteration {iteration}: {verdict.reason}; no weight was changed by this batch, which was made of"
        f" {', '.join(named[:_NAMED])}{more}, listed in {run / BAD_BATCHES_FILE}"
    )


def bad_batch_error(description: str) -> UserError:
    """The error of a run that a bad batch ends, from :func:`describe_bad_batch`."""
    return UserError(
        f"{description}. Go on without it with --on-bad-batch skip, or from the last checkpoint with a lower"
        " --learning-rate"
    )
