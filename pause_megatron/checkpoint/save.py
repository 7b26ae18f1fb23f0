"""Writes a checkpoint: every process its own pieces, rank 0 the manifest, then one rename."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist
from safetensors.torch import save_file

from pause_megatron.atomic import (
    TEMPORARY_SUFFIX,
    fsync_path,
    rename_into_place,
    temporary_name,
    write_json,
    write_text,
)
from pause_megatron.checkpoint.deepspeed_state import STATE_KEYS, owned_range, owned_state
from pause_megatron.checkpoint.format import (
    Fragment,
    ParameterRecord,
    file_checksum,
    manifest_content,
    tensor_key,
)
from pause_megatron.checkpoint.names import LATEST, MANIFEST, checkpoint_name
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import NamedParameter


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What one process wrote, as rank 0 hears of it."""

    file: str
    checksum: dict[str, int]
    parameters: dict[str, ParameterRecord]
    fragments: list[Fragment]
    error: str = ""


def save_checkpoint(
    checkpoints: Path,
    iteration: int,
    *,
    parameters: Sequence[NamedParameter],
    engine: deepspeed.DeepSpeedEngine,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Save weights, optimizer state and ``state`` as ``checkpoints/iter_NNNNNNN``; every process calls this.

    The folder and then the pointer ``latest`` appear only when everything is on disk; a checkpoint of the same name is
    replaced. Only the newest ``keep`` are kept.

    Raises :class:`UserError` on every process when one of them could not write (a full disk, say); the checkpoint that
    was latest before still is.
    """
    path = checkpoints / checkpoint_name(iteration)
    temporary = _agree_on_temporary(path)
    written = _write_own_pieces(temporary, parameters, engine)
    everything: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everything, written)
    failed = next((item for item in everything if item.error), None)
    outcome: list[str] = [failed.error if failed else ""]
    if dist.get_rank() == 0:
        try:
            if not failed:
                _publish(temporary, path, everything, state)
                _remove_old(checkpoints, keep)
        except OSError as error:
            outcome = [f"{path}: {error.strerror or error}"]
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        raise UserError(f"the checkpoint could not be written: {outcome[0]}")
    return path


def sweep_unfinished(checkpoints: Path) -> None:
    """Remove what an interrupted save left behind; call it on rank 0 before training."""
    for leftover in checkpoints.glob(f".*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(leftover, ignore_errors=True)


def _agree_on_temporary(path: Path) -> Path:
    """One temporary folder for all processes, made by rank 0."""
    name: list[Any] = [None]
    if dist.get_rank() == 0:
        temporary = temporary_name(path)
        temporary.mkdir(parents=True)
        name = [str(temporary)]
    dist.broadcast_object_list(name, src=0)
    return Path(name[0])


def _write_own_pieces(
    folder: Path, parameters: Sequence[NamedParameter], engine: deepspeed.DeepSpeedEngine
) -> _Written:
    file = f"rank{dist.get_rank():05d}.safetensors"
    tensors, records, fragments = {}, {}, []
    for item in parameters:
        shard = item.shard
        if item.tied_copy or (shard.dim is None and shard.tp_rank != 0):
            continue  # another process holds the same values and writes them
        records[item.name] = ParameterRecord(shape=shard.global_shape, dim=shard.dim, blocks=shard.blocks)
        start, length = owned_range(engine, item.parameter)
        if length == 0:
            continue
        for key in STATE_KEYS:
            tensors[tensor_key(key, item.name)] = owned_state(engine, item.parameter, key).contiguous().cpu()
        fragments.append(
            Fragment(
                file=file, name=item.name, tp_rank=shard.tp_rank, tp_size=shard.tp_size, start=start, length=length
            )
        )
    try:
        save_file(tensors, folder / file)
        fsync_path(folder / file)
        checksum = file_checksum(folder / file)
    except Exception as error:  # safetensors reports a full disk as an error of its own
        return _Written(
            file=file, checksum={}, parameters={}, fragments=[], error=f"rank {dist.get_rank()}, {_one_line(error)}"
        )
    return _Written(file=file, checksum=checksum, parameters=records, fragments=fragments)


def _one_line(error: Exception) -> str:
    """One line that says what went wrong while writing."""
    return " ".join(str(error).split()) or type(error).__name__


def _publish(temporary: Path, path: Path, everything: Sequence[_Written], state: dict[str, Any]) -> None:
    parameters: dict[str, ParameterRecord] = {}
    for item in everything:
        parameters |= item.parameters
    write_json(
        temporary / MANIFEST,
        manifest_content(
            state=state,
            files={item.file: item.checksum for item in everything},
            parameters=parameters,
            fragments=[fragment for item in everything for fragment in item.fragments],
        ),
    )
    fsync_path(temporary)
    if path.exists():
        shutil.rmtree(path)
    rename_into_place(temporary, path)
    write_text(path.parent / LATEST, path.name)


def _remove_old(checkpoints: Path, keep: int) -> None:
    complete = sorted(folder for folder in checkpoints.glob("iter_*") if (folder / MANIFEST).exists())
    for folder in complete[:-keep]:
        (folder / MANIFEST).unlink()  # first, so that a removal cut short leaves no folder that looks complete
        shutil.rmtree(folder)
