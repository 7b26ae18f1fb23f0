"""Checkpoint folders of a run: finding, creating, replacing and removing them.

A checkpoint gets its final name by one rename after all its files are on disk, and loses it by another rename before
any of them is removed. A folder with a checkpoint's name was therefore written completely. A crash leaves only
temporary names, which :func:`sweep_unfinished` removes.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pause_megatron import log
from pause_megatron.atomic import TEMPORARY_SUFFIX, new_folder, rename_into_place, sweep, temporary_name
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST, read_manifest
from pause_megatron.config.training import CheckpointConfig
from pause_megatron.errors import UserError

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds its checkpoints."""
_REPLACEMENT_SUFFIX = ".new"
"""Suffix of a complete checkpoint until the previous one of the same iteration is out of the way."""
_DAMAGED_SUFFIX = ".damaged"
_CHECKPOINT = re.compile(rf"iter_(\d{{7,}})({re.escape(_REPLACEMENT_SUFFIX)})?")


def checkpoint_name(iteration: int) -> str:
    """Return the folder name of the checkpoint after ``iteration`` steps."""
    return f"iter_{iteration:07d}"


def _order(name: str) -> tuple[int, bool] | None:
    """Return a key that sorts checkpoint names from oldest to newest; None for other names."""
    match = _CHECKPOINT.fullmatch(name)
    return (int(match[1]), match[2] is not None) if match else None


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Return all folders with a checkpoint's name, the newest first; they may be damaged."""
    named = ((_order(path.name), path) for path in checkpoints.glob("*"))
    return [path for _, path in sorted(((order, path) for order, path in named if order), reverse=True)]


def is_complete(folder: Path) -> bool:
    """Return whether the manifest is valid and all files have their recorded sizes; checksums are not compared."""
    try:
        files = read_manifest(folder).files
        return all((folder / name).stat().st_size == recorded.bytes for name, recorded in files.items())
    except (UserError, OSError):
        return False


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run folder; None if there is none."""
    return next(filter(is_complete, checkpoint_folders(run / CHECKPOINTS)), None)


def find_checkpoint(path: Path, flag: str = "--checkpoint") -> Path:
    """Return the checkpoint that ``flag`` names: a checkpoint folder, or the newest complete one of a run folder.

    Raises :class:`UserError` if there is none.
    """
    if (path / MANIFEST).exists():
        return path
    found = latest_checkpoint(path)
    if found is not None:
        return found
    if not path.exists():
        raise UserError(f"{flag} {path}: no such folder; give a run folder")
    half_written = path.name.endswith(TEMPORARY_SUFFIX) or path.parent.name == CHECKPOINTS
    reason = f"half-written, since it has no {MANIFEST}" if half_written else "holds no complete checkpoint"
    raise UserError(f"{flag} {path}: {reason}; give a run folder or one of its {CHECKPOINTS}/iter_* folders")


@contextmanager
def new_checkpoint(checkpoints: Path, iteration: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes the checkpoint of ``iteration`` if the block succeeds.

    Replaces a checkpoint of the same iteration: the new one gets a name that counts before the old one loses its own.
    Raises :class:`UserError` if the disk is full.
    """
    settle_replacements(checkpoints)
    path = checkpoints / checkpoint_name(iteration)
    with new_folder(path.with_name(path.name + _REPLACEMENT_SUFFIX) if path.exists() else path) as temporary:
        yield temporary
    settle_replacements(checkpoints)


def settle_replacements(checkpoints: Path) -> None:
    """Rename every complete replacement to the name of the checkpoint that it replaces."""
    for new in checkpoints.glob(f"*{_REPLACEMENT_SUFFIX}"):
        if _order(new.name) is not None:
            path = new.with_name(new.name.removesuffix(_REPLACEMENT_SUFFIX))
            old = temporary_name(path)
            if path.exists():
                path.rename(old)
            rename_into_place(new, path)
            shutil.rmtree(old, ignore_errors=True)


def retire_old(checkpoints: Path, config: CheckpointConfig, *, newest: Path) -> list[Path]:
    """Rename the complete checkpoints that ``config`` does not keep to temporary names, and return their new paths.

    The caller must remove them, which takes long if they are large. ``newest``, which was just written, is always kept.
    Incomplete checkpoints are neither counted nor renamed.
    """
    kept, retired = 0, []
    for folder in checkpoint_folders(checkpoints):
        order = _order(folder.name)
        assert order is not None
        is_exempt = folder == newest or (config.keep_every and order[0] % config.keep_every == 0)
        if (kept >= config.keep_checkpoints and is_exempt) or not is_complete(folder):
            continue
        if kept < config.keep_checkpoints:
            kept += 1
        else:
            retired.append(folder.rename(temporary_name(folder)))
    return retired


def sweep_unfinished(checkpoints: Path) -> None:
    """Finish or remove what an interrupted save left; one process must call this before the first save."""
    for path in sweep(checkpoints):
        log.warn(f"{path} is locked by another process; check whether this run is still active elsewhere")
    settle_replacements(checkpoints)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that it no longer counts, without removing anything; return the new path."""
    number = 1
    while (path := folder.with_name(f"{folder.name}{_DAMAGED_SUFFIX}{f'-{number}' if number > 1 else ''}")).exists():
        number += 1
    return folder.rename(path)


def damaged_folders(checkpoints: Path) -> list[Path]:
    """Return the folders that :func:`set_aside` has renamed."""
    return sorted(checkpoints.glob(f"*{_DAMAGED_SUFFIX}*"))
