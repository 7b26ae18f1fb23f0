"""Names of a run's checkpoint folders and of the files in them."""

CHECKPOINTS = "checkpoints"
"""The folder of a run that holds its checkpoints."""
LATEST = "latest"
"""In it, the file that names the newest complete one."""
MANIFEST = "manifest.json"
"""In a checkpoint, written last: a folder without it is half-written."""


def checkpoint_name(iteration: int) -> str:
    """The folder name of the checkpoint after ``iteration`` steps."""
    return f"iter_{iteration:07d}"
