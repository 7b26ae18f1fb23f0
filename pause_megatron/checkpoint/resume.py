"""Finds the checkpoint a run continues from: the newest that is whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pause_megatron import log
from pause_megatron.checkpoint.folders import (
    checkpoint_folders,
    damaged_folders,
    set_aside,
    sweep_unfinished,
)
from pause_megatron.checkpoint.load import load, open_verified
from pause_megatron.checkpoint.manifest import DamagedCheckpointError
from pause_megatron.checkpoint.names import CHECKPOINTS
from pause_megatron.checkpoint.rank_0 import on_rank_0
from pause_megatron.engine import DeepSpeedEngine
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import NamedParameter


def resume_from_newest(
    run: Path, *, parameters: Sequence[NamedParameter], engine: DeepSpeedEngine
) -> tuple[Path, dict[str, Any]] | None:
    """Load the newest whole checkpoint of the run folder ``run``; every process calls this, before the first save.

    What an interrupted save left is swept. A checkpoint that turns out damaged is named in a warning and renamed, and
    the one before it is tried.

    Returns:
        The checkpoint's folder and its ``state``; None when the run has no checkpoint yet.

    Raises :class:`UserError` on every process when there are checkpoints but none is whole, or when the newest whole
    one is of another model.
    """
    checkpoints = run / CHECKPOINTS
    for folder in on_rank_0(partial(_candidates, checkpoints)):
        try:
            reader = open_verified(folder)
        except DamagedCheckpointError as error:
            aside = on_rank_0(partial(set_aside, folder))
            log.warn(f"{error}; the folder is now {aside.name}, and the checkpoint before it is tried")
            continue
        return folder, load(reader, parameters=parameters, engine=engine)
    if damaged := on_rank_0(partial(damaged_folders, checkpoints)):
        raise UserError(
            f"{checkpoints}: no checkpoint is whole ({', '.join(folder.name for folder in damaged)}); restore one, or"
            " remove them to start from the beginning"
        )
    return None


def _candidates(checkpoints: Path) -> list[Path]:
    sweep_unfinished(checkpoints)
    return checkpoint_folders(checkpoints)
