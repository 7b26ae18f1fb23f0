"""The checkpoint folders of a run: which there are, how a new one appears, and which old ones go.

A checkpoint appears under a name that counts by one rename, when everything in it is on disk, and disappears from under
it by another, before anything in it is removed. At any moment, then, whatever stands under such a name was written
whole; what a crash leaves are temporary names, which :func:`sweep_unfinished` removes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pause_megatron import log
from pause_megatron.atomic import TEMPORARY_SUFFIX, new_folder, rename_into_place, sweep, temporary_name, write_text
from pause_megatron.checkpoint.manifest import read_manifest
from pause_megatron.checkpoint.names import (
    CHECKPOINTS,
    DAMAGED_SUFFIX,
    LATEST,
    MANIFEST,
    REPLACEMENT_SUFFIX,
    checkpoint_name,
    checkpoint_order,
)
from pause_megatron.config.checkpoint import CheckpointConfig
from pause_megatron.errors import UserError


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Every folder with a checkpoint's name, the newest first; whether it is whole has to be seen."""
    named = ((checkpoint_order(path.name), path) for path in checkpoints.glob("*"))
    return [path for _, path in sorted(((order, path) for order, path in named if order), reverse=True)]


def is_complete(folder: Path) -> bool:
    """Whether the manifest is as it was written and all files are there, of the right size. Checksums are left out."""
    try:
        files = read_manifest(folder).files
        return all((folder / name).stat().st_size == record.bytes for name, record in files.items())
    except (UserError, OSError):
        return False


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder; None before the first."""
    return next(filter(is_complete, checkpoint_folders(run / CHECKPOINTS)), None)


def find_checkpoint(path: Path, flag: str = "--checkpoint") -> Path:
    """Resolve what a user named by ``flag``: a checkpoint's folder, or a run's, whose newest checkpoint is taken.

    Raises :class:`UserError` when there is none.
    """
    if (path / MANIFEST).exists():
        return path
    found = latest_checkpoint(path)
    if found is not None:
        return found
    if not path.exists():
        raise UserError(f"{flag} {path}: no such folder")
    half_written = path.name.endswith(TEMPORARY_SUFFIX) or path.parent.name == CHECKPOINTS
    reason = f"it has no {MANIFEST}, so it is half-written" if half_written else "it holds no complete checkpoint"
    raise UserError(f"{flag} {path}: {reason}; give a run folder or one of its {CHECKPOINTS}/iter_* folders")


@contextmanager
def new_checkpoint(checkpoints: Path, iteration: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes the checkpoint of ``iteration`` when the block ends without an error.

    One of the same iteration is replaced: the new one gets a name that counts before the old one loses its own.

    Raises :class:`UserError` when the disk is full.
    """
    settle_replacements(checkpoints)
    path = checkpoints / checkpoint_name(iteration)
    with new_folder(path.with_name(path.name + REPLACEMENT_SUFFIX) if path.exists() else path) as temporary:
        yield temporary
    settle_replacements(checkpoints)
    write_text(checkpoints / LATEST, path.name + "\n")


def settle_replacements(checkpoints: Path) -> None:
    """Let every complete replacement take the place and the name of what it replaces."""
    for new in checkpoints.glob(f"*{REPLACEMENT_SUFFIX}"):
        if checkpoint_order(new.name) is not None:
            path = new.with_name(new.name.removesuffix(REPLACEMENT_SUFFIX))
            old = temporary_name(path)
            if path.exists():
                path.rename(old)
            rename_into_place(new, path)
            shutil.rmtree(old, ignore_errors=True)


def retire_old(checkpoints: Path, config: CheckpointConfig, *, newest: Path) -> list[Path]:
    """Take the names from the complete checkpoints that ``config`` does not keep; never from ``newest``, just written.

    What is not complete is neither counted nor touched. Returns the nameless folders, which are for the caller to
    remove: that takes as long as they are large.
    """
    kept, retired = 0, []
    for folder in checkpoint_folders(checkpoints):
        order = checkpoint_order(folder.name)
        assert order is not None
        spared = folder == newest or (config.keep_every and order[0] % config.keep_every == 0)
        if (kept >= config.keep_checkpoints and spared) or not is_complete(folder):
            continue
        if kept < config.keep_checkpoints:
            kept += 1
        else:
            retired.append(folder.rename(temporary_name(folder)))
    return retired


def sweep_unfinished(checkpoints: Path) -> None:
    """Finish or remove what an interrupted save left behind; to be called by one process, before the first save."""
    for path in sweep(checkpoints):
        log.warn(f"{path} is being written by another process; is this run still going on elsewhere?")
    settle_replacements(checkpoints)


def set_aside(folder: Path) -> Path:
    """Give a damaged checkpoint a name that says so and does not count. Nothing of it is lost; returns the new path."""
    number = 1
    while (path := folder.with_name(f"{folder.name}{DAMAGED_SUFFIX}{f'-{number}' if number > 1 else ''}")).exists():
        number += 1
    return folder.rename(path)


def damaged_folders(checkpoints: Path) -> list[Path]:
    """What :func:`set_aside` has put aside."""
    return sorted(checkpoints.glob(f"*{DAMAGED_SUFFIX}*"))
