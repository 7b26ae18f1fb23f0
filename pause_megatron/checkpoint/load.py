"""Loads a checkpoint into a training engine of any layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pause_megatron.checkpoint.manifest import STATE_KEYS, WEIGHTS, DamagedCheckpointError, ParameterRecord, StateKey
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.engine import DeepSpeedEngine
from pause_megatron.engine.optimizer_state import (
    owned_range,
    owned_state,
    publish_master_weights,
    reset_optimizer,
    restore_loss_scaler,
)
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.collectives import gather_from_ranks, raise_on_all_ranks


def open_verified(folder: Path) -> CheckpointReader:
    """Open the checkpoint in ``folder`` and verify it, the files shared out among the processes; all call this.

    Raises :class:`DamagedCheckpointError` or :class:`UserError` on every process when one of them finds a fault.
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
    if found := next((damage for damage in gather_from_ranks(damage) if damage), None):
        raise DamagedCheckpointError(found)
    assert reader is not None
    return reader


def load_checkpoint(folder: Path, *, parameters: Sequence[NamedParameter], engine: DeepSpeedEngine) -> dict[str, Any]:
    """Verify the checkpoint in ``folder`` and load it; see :func:`open_verified` and :func:`load`."""
    return load(open_verified(folder), parameters=parameters, engine=engine)


@torch.no_grad()
def load(reader: CheckpointReader, *, parameters: Sequence[NamedParameter], engine: DeepSpeedEngine) -> dict[str, Any]:
    """Load weights and optimizer state of a verified checkpoint; every process calls this.

    Each process reads the pieces it needs of the parameters it holds, one parameter at a time.

    Returns:
        The ``state`` given to :meth:`~pause_megatron.checkpoint.saver.CheckpointSaver.save`.

    Raises :class:`UserError` on every process when the checkpoint is of another model.
    """
    _refuse_another_model(reader, parameters)
    reset_optimizer(engine, reader.optimizer["step"])
    restore_loss_scaler(engine, reader.optimizer["loss_scaler"])
    _copy(reader, STATE_KEYS, parameters, engine)
    return reader.state


@torch.no_grad()
def load_weights(folder: Path, *, parameters: Sequence[NamedParameter], engine: DeepSpeedEngine) -> None:
    """Verify the checkpoint in ``folder`` and start from its weights, with a new optimizer; every process calls this.

    Raises as :func:`open_verified` and :func:`load` do.
    """
    reader = open_verified(folder)
    _refuse_another_model(reader, parameters)
    reset_optimizer(engine, 0)
    _copy(reader, (WEIGHTS,), parameters, engine)


def _copy(
    reader: CheckpointReader,
    keys: Sequence[StateKey],
    parameters: Sequence[NamedParameter],
    engine: DeepSpeedEngine,
) -> None:
    for item in parameters:
        start, length = owned_range(engine, item.parameter)
        if length == 0:
            continue
        for key in keys:
            owned_state(engine, item.parameter, key).copy_(reader.piece(item.shard, key, start, length))
    publish_master_weights(engine)


def _refuse_another_model(reader: CheckpointReader, parameters: Sequence[NamedParameter]) -> None:
    """Raise :class:`UserError` on every process when one of them needs a parameter that the checkpoint has not got."""
    failure = None
    for item in parameters:
        found, needed = reader.parameters.get(item.name), ParameterRecord.of(item.shard)
        if found != needed:
            failure = (
                f"{reader.folder} is a checkpoint of another model: {item.name} has {found or 'no place'} in it and"
                f" {needed} here; give the flags the run was started with"
            )
            break
    raise_on_all_ranks(failure)
