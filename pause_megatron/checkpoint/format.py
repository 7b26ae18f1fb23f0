"""The checkpoint format: names of files, the manifest, and the reader. No process group and no GPU needed.

``manifest.json``::

    {"format": "pause_megatron/checkpoint/1",
     "state":      {"iteration": ..., "config": ..., ...},              what the run needs to go on
     "files":      {"rank00000.safetensors": {"bytes": ..., "crc32": ...}},
     "parameters": {name: {"shape": [...], "dim": ..., "blocks": ...}}, the whole model's parameters
     "fragments":  [{"file", "name", "tp_rank", "tp_size", "start", "length"}, ...]}

A fragment is the range ``start : start + length`` of the flattened tensor-parallel shard ``tp_rank`` of a parameter;
its tensors are stored under ``<state key>/<name>``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pause_megatron.atomic import TEMPORARY_SUFFIX
from pause_megatron.checkpoint.deepspeed_state import StateKey
from pause_megatron.checkpoint.names import CHECKPOINTS, LATEST, MANIFEST
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import join_shards

FORMAT = "pause_megatron/checkpoint/1"
_READ_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A flat piece of one tensor-parallel shard of one parameter."""

    file: str
    name: str
    tp_rank: int
    tp_size: int
    start: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ParameterRecord:
    """A parameter of the whole model and how tensor parallelism cuts it."""

    shape: tuple[int, ...]
    dim: int | None
    blocks: int


def tensor_key(key: StateKey, name: str) -> str:
    """Under which key a fragment's tensor stands in its safetensors file."""
    return f"{key}/{name}"


def file_checksum(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file."""
    crc, size = 0, 0
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            crc = zlib.crc32(block, crc)
            size += len(block)
    return {"bytes": size, "crc32": crc}


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder; None before the first."""
    pointer = run / CHECKPOINTS / LATEST
    if not pointer.exists():
        return None
    return run / CHECKPOINTS / pointer.read_text(encoding="utf-8").strip()


def find_checkpoint(path: Path) -> Path:
    """Resolve what a user named: a checkpoint's folder, or a run's, whose newest checkpoint is taken.

    Raises :class:`UserError` when there is none.
    """
    if (path / MANIFEST).exists():
        return path
    found = latest_checkpoint(path)
    if found is not None:
        return found
    if not path.exists():
        raise UserError(f"--checkpoint {path}: no such folder")
    half_written = path.name.endswith(TEMPORARY_SUFFIX) or path.parent.name == CHECKPOINTS
    reason = f"it has no {MANIFEST}, so it is half-written" if half_written else "it holds no complete checkpoint"
    raise UserError(f"--checkpoint {path}: {reason}; give a run folder or one of its {CHECKPOINTS}/iter_* folders")


class CheckpointReader:
    """Reads whole parameters out of a checkpoint, whatever layout wrote it."""

    def __init__(self, folder: Path) -> None:
        """Open the checkpoint in ``folder``. Raises :class:`UserError` when it is incomplete or no checkpoint."""
        self.folder = folder
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: not a complete checkpoint ({MANIFEST}: {error})") from error
        if manifest.get("format") != FORMAT:
            raise UserError(f"{folder}/{MANIFEST}: format {manifest.get('format')!r}, expected {FORMAT!r}")
        self.state: dict[str, Any] = manifest["state"]
        self.files: dict[str, dict[str, int]] = manifest["files"]
        self.parameters = {
            name: ParameterRecord(shape=tuple(record["shape"]), dim=record["dim"], blocks=record["blocks"])
            for name, record in manifest["parameters"].items()
        }
        self._fragments: dict[str, list[Fragment]] = {name: [] for name in self.parameters}
        for record in manifest["fragments"]:
            fragment = Fragment(**record)
            self._fragments[fragment.name].append(fragment)
        self._open_files: dict[str, Any] = {}

    def verify(self, *, part: int = 0, parts: int = 1) -> None:
        """Compare every ``parts``-th file, from ``part`` on, with its recorded size and checksum.

        Raises :class:`UserError` naming the first file that is missing or damaged.
        """
        for name in sorted(self.files)[part::parts]:
            path = self.folder / name
            if not path.exists():
                raise UserError(f"{path}: missing from the checkpoint")
            found = file_checksum(path)
            if found != self.files[name]:
                raise UserError(f"{path}: damaged (found {found}, recorded {self.files[name]})")

    def whole(self, name: str, key: StateKey = "master") -> torch.Tensor:
        """The state ``key`` of parameter ``name`` in the whole model, fp32, padding rows of the vocabulary included."""
        record = self.parameters[name]
        fragments = self._fragments[name]
        tp_size = fragments[0].tp_size if record.dim is not None else 1
        shard_shape = list(record.shape)
        if record.dim is not None:
            shard_shape[record.dim] //= tp_size
        shards = [torch.full(shard_shape, torch.nan) for _ in range(tp_size)]
        for fragment in fragments:
            flat = shards[fragment.tp_rank if record.dim is not None else 0].view(-1)
            flat[fragment.start : fragment.start + fragment.length] = self._tensor(fragment, key)
        return join_shards(shards, dim=record.dim, blocks=record.blocks)

    def _tensor(self, fragment: Fragment, key: StateKey) -> torch.Tensor:
        path = self.folder / fragment.file
        try:
            if fragment.file not in self._open_files:
                self._open_files[fragment.file] = safe_open(path, framework="pt")
            tensor: torch.Tensor = self._open_files[fragment.file].get_tensor(tensor_key(key, fragment.name))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
        return tensor


def manifest_content(
    *,
    state: dict[str, Any],
    files: dict[str, dict[str, int]],
    parameters: dict[str, ParameterRecord],
    fragments: list[Fragment],
) -> dict[str, Any]:
    """The manifest as JSON-ready data."""
    return {
        "format": FORMAT,
        "state": state,
        "files": files,
        "parameters": {name: asdict(record) for name, record in parameters.items()},
        "fragments": [asdict(fragment) for fragment in fragments],
    }
