"""Loads a checkpoint into a training engine of any layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from pause_megatron.checkpoint.deepspeed_state import (
    STATE_KEYS,
    owned_range,
    owned_state,
    prepare_optimizer_state,
    publish_master_weights,
)
from pause_megatron.checkpoint.format import CheckpointReader
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.agreement import raise_together


@torch.no_grad()
def load_checkpoint(
    folder: Path, *, parameters: Sequence[NamedParameter], engine: deepspeed.DeepSpeedEngine
) -> dict[str, Any]:
    """Load weights and optimizer state of the checkpoint in ``folder``; every process calls this.

    Each process reads the pieces it needs of the parameters it holds, one parameter at a time.

    Returns:
        The ``state`` given to :func:`~pause_megatron.checkpoint.save.save_checkpoint`.

    Raises :class:`UserError` on every process when a file is missing or damaged, or when the checkpoint is of another
    model.
    """
    reader = CheckpointReader(folder)
    _verify_together(reader)
    prepare_optimizer_state(engine, reader.state["optimizer_step"])
    for item in parameters:
        _check_same_parameter(reader, item)
        start, length = owned_range(engine, item.parameter)
        if length == 0:
            continue
        for key in STATE_KEYS:
            shard = item.shard.slice(reader.whole(item.name, key)).reshape(-1)
            owned_state(engine, item.parameter, key).copy_(shard[start : start + length])
    publish_master_weights(engine, [item.parameter for item in parameters])
    return reader.state


def _verify_together(reader: CheckpointReader) -> None:
    """Check all files' checksums, shared among the processes; a fault one of them finds stops them all."""
    fault = None
    try:
        reader.verify(part=dist.get_rank(), parts=dist.get_world_size())
    except UserError as error:
        fault = str(error)
    raise_together(fault)


def _check_same_parameter(reader: CheckpointReader, item: NamedParameter) -> None:
    record = reader.parameters.get(item.name)
    if record is None or record.shape != item.shard.global_shape:
        found = "is not in it" if record is None else f"has shape {list(record.shape)} in it"
        raise UserError(
            f"{reader.folder} is a checkpoint of another model: {item.name} {found}, this model's has"
            f" {list(item.shard.global_shape)}; give the flags the run was started with"
        )
