"""Small checkpoints made by hand, and ways to damage them; no process group is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pause_megatron.atomic import write_json
from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.checkpoint.checkpoint_manifest import (
    MANIFEST,
    STATE_KEYS,
    Fragment,
    Manifest,
    ParameterRecord,
    checksum,
    file_checksum,
)
from pause_megatron.checkpoint.reader import tensor_key
from pause_megatron.model.parameters import Shard

MATRIX = Shard(name="matrix", global_shape=(8, 3), dim=0, blocks=2, tp_rank=0, tp_size=1)
VECTOR = Shard(name="vector", global_shape=(5,), dim=None, blocks=1, tp_rank=0, tp_size=1)
FRAGMENTS = {
    "rank00000.safetensors": [(MATRIX, 0, 0, 7), (VECTOR, 0, 0, 2)],
    "rank00001.safetensors": [(MATRIX, 0, 7, 5), (VECTOR, 0, 2, 3)],
    "rank00002.safetensors": [(MATRIX, 1, 0, 12)],
}
"""Fragments of each file: parameter, tensor-parallel rank (of two), start and length in the flattened shard."""


def values(shard: Shard, key: str) -> torch.Tensor:
    """The complete parameter; all its elements are different."""
    elements = torch.Size(shard.global_shape).numel()
    return (torch.arange(elements, dtype=torch.float32) + 100 * STATE_KEYS.index(key)).view(shard.global_shape)


def cut(shard: Shard, tp_size: int, tp_rank: int) -> Shard:
    """Shard ``tp_rank`` of ``tp_size`` of the complete parameter ``shard``."""
    return Shard(**{**vars(shard), "tp_size": tp_size, "tp_rank": tp_rank})


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint as three processes would."""
    folder.mkdir(parents=True)
    fragments = []
    for file, contents in FRAGMENTS.items():
        tensors = {}
        for shard, tp_rank, start, length in contents:
            for key in STATE_KEYS:
                flat = cut(shard, 2, tp_rank).slice(values(shard, key)).reshape(-1)
                tensors[tensor_key(key, shard.name)] = flat[start : start + length].clone()
            fragments.append(
                Fragment(file=file, name=shard.name, tp_rank=tp_rank, tp_size=2, start=start, length=length)
            )
        save_file(tensors, folder / file)
    manifest = Manifest(
        state={"note": "é"},
        optimizer={"step": 3, "loss_scaler": None},
        files={file: file_checksum(folder / file) for file in FRAGMENTS},
        parameters={shard.name: ParameterRecord.of(shard) for shard in (MATRIX, VECTOR)},
        fragments=fragments,
    )
    write_json(folder / MANIFEST, manifest.to_plain())
    return folder


def write_iterations(run: Path, *iterations: int) -> list[Path]:
    """Checkpoints of ``iterations`` in the run folder ``run``."""
    return [write_checkpoint(run / CHECKPOINTS / checkpoint_name(iteration)) for iteration in iterations]


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None], *, seal: bool = True) -> None:
    """Edit the manifest with ``change``; recompute the checksum, as an attacker could, unless ``seal`` is False."""
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    written = content.pop("crc32")
    change(content)
    write_json(folder / MANIFEST, {**content, "crc32": checksum(content) if seal else written})


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    """Truncate a file to its first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
