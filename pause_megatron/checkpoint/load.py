"""Loads checkpoints into a training engine of any layout: to resume a run, or to start from its weights.

All functions are collectives: every rank must call them.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pause_megatron import log
from pause_megatron.checkpoint.checkpoint_folders import (
    CHECKPOINTS,
    checkpoint_folders,
    damaged_folders,
    set_aside,
    sweep_unfinished,
)
from pause_megatron.checkpoint.checkpoint_manifest import (
    STATE_KEYS,
    WEIGHTS,
    DamagedCheckpointError,
    ParameterRecord,
    StateKey,
)
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.engine import Engine
from pause_megatron.engine.optimizer_state import owned_range, owned_state, reset_optimizer, restore_loss_scaler
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.collectives import first_of_ranks, raise_on_all_ranks, run_on_rank_0
from pause_megatron.parallel.pinned import PinnedCopies


def resume_from_newest(
    run: Path, *, parameters: Sequence[NamedParameter], engine: Engine
) -> tuple[Path, dict[str, Any]] | None:
    """Load the newest complete checkpoint of the run folder ``run``; call this before the first save.

    Removes the files of an interrupted save. If a checkpoint is damaged, logs a warning, renames its folder and tries
    the checkpoint before it.

    Returns the checkpoint's folder and its ``state``; None if the run has no checkpoint yet. Raises :class:`UserError`
    on every rank if all checkpoints are damaged, or if the newest complete one belongs to another model.
    """
    checkpoints = run / CHECKPOINTS
    run_on_rank_0(partial(sweep_unfinished, checkpoints))
    for folder in run_on_rank_0(partial(checkpoint_folders, checkpoints), list[Path]):
        try:
            reader = open_verified(folder)
        except DamagedCheckpointError as error:
            aside = run_on_rank_0(partial(set_aside, folder), Path)
            log.warn(f"{error}; renamed the folder to {aside.name}, trying the checkpoint before it")
            continue
        return folder, load(reader, parameters=parameters, engine=engine)
    if damaged := run_on_rank_0(partial(damaged_folders, checkpoints), list[Path]):
        raise UserError(
            f"{checkpoints}: all checkpoints are damaged ({', '.join(folder.name for folder in damaged)}); restore one,"
            " or remove them to start from the beginning"
        )
    return None


def open_verified(folder: Path) -> CheckpointReader:
    """Open and verify the checkpoint in ``folder``; each rank verifies some of its files.

    Raises :class:`DamagedCheckpointError` or :class:`UserError` on every rank if any rank finds a fault.
    """
    reader, damage, failure = None, None, None
    try:
        reader = CheckpointReader(folder)
        reader.verify(part=dist.get_rank(), parts=dist.get_world_size())
    except DamagedCheckpointError as error:
        damage = str(error)
    except UserError as error:
        failure = str(error)
    raise_on_all_ranks(failure)
    if found := first_of_ranks(damage):
        raise DamagedCheckpointError(found)
    assert reader is not None
    return reader


@torch.no_grad()
def load(reader: CheckpointReader, *, parameters: Sequence[NamedParameter], engine: Engine) -> dict[str, Any]:
    """Load weights and optimizer state of a verified checkpoint, and return the ``state`` that was saved with them.

    Each rank reads the ranges that it owns, one parameter at a time. Raises :class:`UserError` on every rank if the
    checkpoint belongs to another model.
    """
    _check_model(reader, parameters)
    reset_optimizer(engine, reader.optimizer["step"])
    restore_loss_scaler(engine, reader.optimizer["loss_scaler"])
    _copy(reader, STATE_KEYS, parameters, engine)
    return reader.state


@torch.no_grad()
def load_weights(folder: Path, *, parameters: Sequence[NamedParameter], engine: Engine) -> None:
    """Verify the checkpoint in ``folder`` and load only its weights; the optimizer starts anew.

    Raises as :func:`open_verified` and :func:`load` do.
    """
    reader = open_verified(folder)
    _check_model(reader, parameters)
    reset_optimizer(engine, 0)
    _copy(reader, (WEIGHTS,), parameters, engine)


def _copy(
    reader: CheckpointReader, keys: Sequence[StateKey], parameters: Sequence[NamedParameter], engine: Engine
) -> None:
    PinnedCopies().copy(_pairs(reader, keys, parameters, engine))
    engine.updater.publish_weights()


def _pairs(
    reader: CheckpointReader, keys: Sequence[StateKey], parameters: Sequence[NamedParameter], engine: Engine
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield this rank's state and the values read for it, both flat ``[length]``, one parameter at a time."""
    for item in parameters:
        start, length = owned_range(engine, item.parameter)
        if length:
            for key in keys:
                yield owned_state(engine, item.parameter, key), reader.read_range(item.shard, key, start, length)


def _check_model(reader: CheckpointReader, parameters: Sequence[NamedParameter]) -> None:
    failure = None
    for item in parameters:
        found, needed = reader.parameters.get(item.name), ParameterRecord.of(item.shard)
        if found != needed:
            failure = (
                f"{reader.folder}: checkpoint of another model ({item.name} has {found or 'no entry'} there, but"
                f" {needed} here); use the model flags of the run that wrote it"
            )
            break
    raise_on_all_ranks(failure)
