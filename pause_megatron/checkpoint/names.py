"""Names of a run's checkpoint folders and of the files in them."""

from __future__ import annotations

import re

CHECKPOINTS = "checkpoints"
"""The folder of a run that holds its checkpoints."""
LATEST = "latest"
"""In it, a file that tells a person the newest complete one; nothing reads it."""
MANIFEST = "manifest.json"
"""In a checkpoint, written last: a folder without it is half-written."""
REPLACEMENT_SUFFIX = ".new"
"""Ends the name of a complete checkpoint until the one of the same iteration before it is out of the way."""
DAMAGED_SUFFIX = ".damaged"
"""In the name of a folder that was a checkpoint and is no longer whole."""

_CHECKPOINT = re.compile(rf"iter_(\d{{7,}})({re.escape(REPLACEMENT_SUFFIX)})?")


def checkpoint_name(iteration: int) -> str:
    """The folder name of the checkpoint after ``iteration`` steps."""
    return f"iter_{iteration:07d}"


def checkpoint_order(name: str) -> tuple[int, bool] | None:
    """A key that sorts the names of checkpoints from the oldest to the newest; None when ``name`` is none's."""
    match = _CHECKPOINT.fullmatch(name)
    return (int(match[1]), match[2] is not None) if match else None


def shard_file(rank: int) -> str:
    """The name of the file that process ``rank`` writes."""
    return f"rank{rank:05d}.safetensors"
