"""The checkpoint format: what ``manifest.json`` says, and what must hold of it before a tensor is read.

::

    {"format": "pause_megatron/checkpoint/2",
     "state":      {"iteration": ..., "config": ..., ...},              what the run needs to go on
     "optimizer":  {"step": ..., "loss_scaler": {...} or null},         empty where there are weights only
     "files":      {"rank00000.safetensors": {"bytes": ..., "crc32": ...}},
     "parameters": {name: {"shape": [...], "dim": ..., "blocks": ...}}, the whole model's parameters
     "fragments":  [{"file", "name", "tp_rank", "tp_size", "start", "length"}, ...],
     "crc32":      ...}                                                 of all the above

A fragment is the range ``start : start + length`` of the flattened tensor-parallel shard ``tp_rank`` of a parameter;
its tensors are stored under ``<state key>/<name>``. Of a parameter that is not cut (``dim`` is null) every shard is the
whole.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pause_megatron.checkpoint.names import MANIFEST
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import Shard

FORMAT = "pause_megatron/checkpoint/2"

StateKey = Literal["master", "exp_avg", "exp_avg_sq"]
WEIGHTS: StateKey = "master"
STATE_KEYS: tuple[StateKey, ...] = (WEIGHTS, "exp_avg", "exp_avg_sq")
"""What is kept of a parameter: the fp32 weight and Adam's two moments."""

_FILE_NAME = re.compile(r"\w[\w.-]*")


class DamagedCheckpointError(UserError):
    """A checkpoint is not what was written: something of it is missing, cut short or changed."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file held when it was written."""

    bytes: int
    crc32: int

    def __str__(self) -> str:
        return f"{self.bytes} bytes, CRC-32 {self.crc32:08x}"


@dataclass(frozen=True, kw_only=True)
class ParameterRecord:
    """A parameter of the whole model and how tensor parallelism cuts it."""

    shape: tuple[int, ...]
    dim: int | None
    blocks: int

    @classmethod
    def of(cls, shard: Shard) -> ParameterRecord:
        """The record of the parameter that ``shard`` is a part of."""
        return cls(shape=shard.global_shape, dim=shard.dim, blocks=shard.blocks)

    def __str__(self) -> str:
        return f"shape {list(self.shape)}" + (f", cut along {self.dim}" if self.dim is not None else "")

    def shard_shape(self, tp_size: int) -> tuple[int, ...]:
        """The shape of one of ``tp_size`` shards. Raises :class:`ValueError` where it cannot be cut so."""
        if any(size <= 0 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)}")
        if self.dim is None:
            return self.shape
        if self.shape[self.dim] % (tp_size * self.blocks):
            raise ValueError(f"{list(self.shape)} cannot be cut into {tp_size} shards along {self.dim}")
        shape = list(self.shape)
        shape[self.dim] //= tp_size
        return tuple(shape)


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A flat piece of one tensor-parallel shard of one parameter."""

    file: str
    name: str
    tp_rank: int
    tp_size: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.start + self.length


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``manifest.json``."""

    state: dict[str, Any]
    optimizer: dict[str, Any]
    files: dict[str, FileRecord]
    parameters: dict[str, ParameterRecord]
    fragments: list[Fragment]

    @property
    def state_keys(self) -> tuple[StateKey, ...]:
        """What is there of every parameter."""
        return STATE_KEYS if self.optimizer else (WEIGHTS,)

    def to_plain(self) -> dict[str, Any]:
        """JSON-ready, with format and checksum. Raises :class:`TypeError` when ``state`` is no JSON."""
        content = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return {**content, "crc32": _checksum(content)}

    def check(self) -> None:
        """Raise :class:`ValueError` unless all files lie in the checkpoint's folder, and the fragments of every
        parameter fit together to the whole of it."""
        for name in self.files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a file in this folder")
        by_shard: dict[str, dict[int, list[Fragment]]] = {name: {} for name in self.parameters}
        for fragment in self.fragments:
            if fragment.file not in self.files:
                raise ValueError(f"{fragment.name}: {fragment.file!r} is not among its files")
            tp_rank = fragment.tp_rank if self.parameters[fragment.name].dim is not None else 0
            by_shard[fragment.name].setdefault(tp_rank, []).append(fragment)
        for name, shards in by_shard.items():
            _check_shards(name, self.parameters[name], shards)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of the checkpoint in ``folder``.

    Raises :class:`DamagedCheckpointError` when it is missing, cut short, changed, or contradicts itself, and
    :class:`UserError` when it cannot be read or is of another version's format.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("format")
        if found != FORMAT:
            raise UserError(f"{path}: format {found!r}, expected {FORMAT!r}; it is of another version of this program")
        if content.pop("crc32") != _checksum({"format": found, **content}):
            raise ValueError("not the content it was written with")
        manifest = _from_plain(content)
        manifest.check()
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: missing from the checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    return manifest


def _from_plain(content: dict[str, Any]) -> Manifest:
    parameters = {
        name: ParameterRecord(**{**record, "shape": tuple(record["shape"])})
        for name, record in content["parameters"].items()
    }
    return Manifest(
        state=dict(content["state"]),
        optimizer=dict(content["optimizer"]),
        files={name: FileRecord(**record) for name, record in content["files"].items()},
        parameters=parameters,
        fragments=[Fragment(**record) for record in content["fragments"]],
    )


def _check_shards(name: str, record: ParameterRecord, shards: dict[int, list[Fragment]]) -> None:
    sizes = {fragment.tp_size for fragments in shards.values() for fragment in fragments}
    if len(sizes) != 1:
        raise ValueError(f"{name}: cut into {sorted(sizes)} shards")
    (tp_size,) = sizes
    if sorted(shards) != list(range(tp_size if record.dim is not None else 1)):
        raise ValueError(f"{name}: shards {sorted(shards)} of {tp_size}")
    for tp_rank, fragments in shards.items():
        end = 0
        for fragment in sorted(fragments, key=lambda fragment: fragment.start):
            if fragment.start != end or fragment.length <= 0:
                raise ValueError(f"{name}, shard {tp_rank}: {fragment.start} follows {end}")
            end = fragment.end
        if end != math.prod(record.shard_shape(tp_size)):
            raise ValueError(f"{name}, shard {tp_rank}: ends at {end}")


def _checksum(content: dict[str, Any]) -> int:
    """CRC-32 of JSON-ready ``content``, however it is laid out in a file."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
