"""Writes one checkpoint at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed

from pause_megatron.checkpoint.names import checkpoint_name
from pause_megatron.checkpoint.saver import CheckpointSaver
from pause_megatron.config.checkpoint import CheckpointConfig
from pause_megatron.model.parameters import NamedParameter


def save_checkpoint(
    checkpoints: Path,
    iteration: int,
    *,
    parameters: Sequence[NamedParameter],
    engine: deepspeed.DeepSpeedEngine,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Save as :class:`CheckpointSaver` does, and return the checkpoint's folder."""
    config = CheckpointConfig(keep_checkpoints=keep)
    CheckpointSaver(checkpoints, config, parameters=parameters, engine=engine).save(iteration, state)
    return checkpoints / checkpoint_name(iteration)
