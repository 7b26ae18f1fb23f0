"""Checkpoint format: the content of ``manifest.json``, and the checks it must pass before a tensor is read.

::

    {"format": "pause_megatron/checkpoint/2",
     "state":      {"iteration": ..., "config": ..., ...},              state of the run
     "optimizer":  {"step": ..., "loss_scaler": {...} or null},         empty if the checkpoint has weights only
     "files":      {"rank00000.safetensors": {"bytes": ..., "crc32": ...}},    also those of the tokenizer
     "parameters": {name: {"shape": [...], "dim": ..., "blocks": ...}}, of the complete model
     "fragments":  [{"file", "name", "tp_rank", "tp_size", "start", "length"}, ...],
     "crc32":      ...}                                                 of everything above

A fragment is the range ``start : start + length`` of a flattened tensor-parallel shard of a parameter. Its tensors have
the keys ``<state key>/<name>`` in the file, for example ``exp_avg/output_layer.weight``. If a parameter is not sharded
(``dim`` is null), every shard is the complete parameter.
"""

from __future__ import annotations

import json
import math
import zlib as standard_zlib
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pause_megatron.errors import UserError
from pause_megatron.records.files import is_file_name

if TYPE_CHECKING:
    from pause_megatron.model.parameters import Shard

try:  # 3 times as fast as zlib
    from isal import isal_zlib as zlib
except ImportError:  # isal has no wheel for some platforms
    zlib = standard_zlib  # type: ignore[misc]

FORMAT = "pause_megatron/checkpoint/2"
MANIFEST = "manifest.json"
"""File of a checkpoint that is written last: a folder without it is incomplete."""
TOKENIZER_FOLDER = "tokenizer"
"""Folder of a checkpoint that contains its tokenizer; checkpoints of older versions have none."""

StateKey = Literal["master", "exp_avg", "exp_avg_sq"]
WEIGHTS: StateKey = "master"
STATE_KEYS: tuple[StateKey, ...] = (WEIGHTS, "exp_avg", "exp_avg_sq")
"""State of each parameter: the fp32 weight and Adam's two moments."""

_READ_BYTES = 1 << 20


class DamagedCheckpointError(UserError):
    """A file of a checkpoint is missing, truncated or changed."""


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error of a file of a checkpoint that is missing, or that the system cannot read."""
    if isinstance(error, FileNotFoundError):
        return DamagedCheckpointError(f"{path}: missing from the checkpoint")
    return UserError(f"{path}: cannot be read ({error.strerror or error})")


class FileChecksum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size and checksum of a file when it was written."""

    bytes: int
    crc32: int

    def __str__(self) -> str:
        return f"{self.bytes} bytes, CRC-32 {self.crc32:08x}"


class RunningChecksum:
    """Size and CRC-32 of the bytes passed to :meth:`update` so far."""

    def __init__(self) -> None:
        self._bytes, self._crc32 = 0, 0

    def update(self, content: Any) -> None:
        """Add ``content``, bytes or a flat buffer of bytes."""
        self._bytes += len(content)
        self._crc32 = zlib.crc32(content, self._crc32)

    @property
    def result(self) -> FileChecksum:
        """Size and checksum of a file with this content."""
        return FileChecksum(bytes=self._bytes, crc32=self._crc32)


def file_checksum(path: Path, stop: Event | None = None) -> FileChecksum:
    """Return the size and CRC-32 of a file. Raises ``CancelledError`` when ``stop`` is set, by another thread."""
    running, block = RunningChecksum(), memoryview(bytearray(_READ_BYTES))  # one block, which stays in the cache
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            running.update(block[:count])
            if stop is not None and stop.is_set():
                raise CancelledError
    return running.result


def verify_file(path: Path, recorded: FileChecksum, *, only_size: bool = False, stop: Event | None = None) -> None:
    """Compare the file ``path`` with the size and checksum it was written with; ``stop`` as in :func:`file_checksum`.

    With ``only_size`` the file is read only if its size differs.

    Raises :class:`DamagedCheckpointError` if it is missing or differs, and :class:`UserError` if it cannot be read.
    """
    try:
        if only_size and path.stat().st_size == recorded.bytes:
            return
        found = file_checksum(path, stop)
    except OSError as error:
        raise unreadable(path, error) from error
    if found != recorded:
        raise DamagedCheckpointError(f"{path}: damaged (found {found}; written {recorded})")


class ParameterRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shape of a parameter in the complete model, and how tensor parallelism shards it."""

    shape: tuple[int, ...]
    dim: int | None
    """Dimension of the shards; None if every rank holds all of the parameter."""
    blocks: int
    """Matrices stacked along ``dim`` that are sharded one by one: 2 for [gate; up], otherwise 1."""

    @classmethod
    def of(cls, shard: Shard) -> ParameterRecord:
        """Return the record of the parameter that ``shard`` is a part of."""
        return cls(shape=shard.global_shape, dim=shard.dim, blocks=shard.blocks)

    def __str__(self) -> str:
        return f"shape {list(self.shape)}" + (f", sharded along {self.dim}" if self.dim is not None else "")

    def shard_shape(self, tp_size: int) -> tuple[int, ...]:
        """Return the shape of one of ``tp_size`` shards. Raises ``ValueError`` if the shape is not divisible."""
        shape = list(self.shape)
        if min(shape, default=1) <= 0:
            raise ValueError(f"shape {shape}")
        if self.dim is None:
            return self.shape
        if shape[self.dim] % (tp_size * self.blocks):
            raise ValueError(f"{shape} cannot be sharded into {tp_size} along {self.dim}")
        shape[self.dim] //= tp_size
        return tuple(shape)


class Fragment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range of one flattened tensor-parallel shard of one parameter."""

    file: str
    name: str
    tp_rank: int
    tp_size: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """End of the range, exclusive."""
        return self.start + self.length


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``manifest.json``."""

    state: dict[str, Any]
    optimizer: dict[str, Any]
    files: dict[str, FileChecksum]
    parameters: dict[str, ParameterRecord]
    fragments: list[Fragment]

    @property
    def state_keys(self) -> tuple[StateKey, ...]:
        """Keys that the checkpoint has for every parameter."""
        return STATE_KEYS if self.optimizer else (WEIGHTS,)

    def to_plain(self) -> dict[str, Any]:
        """Return JSON-ready data with format and checksum. Raises ``TypeError`` if ``state`` is not JSON."""
        content = {"format": FORMAT, **msgspec.to_builtins(self)}
        return {**content, "crc32": checksum(content)}

    def check(self) -> None:
        """Check that all files are in the checkpoint's folder and that the fragments cover every parameter exactly.

        Raises ``ValueError`` otherwise.
        """
        for name in self.files:
            if not is_file_name(name.removeprefix(f"{TOKENIZER_FOLDER}/")):
                raise ValueError(f"{name!r} is not the name of a file in this folder")
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

    Raises :class:`DamagedCheckpointError` if it is missing, truncated, changed or contradicts itself, and
    :class:`UserError` if it cannot be read or has another version's format.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        found = content.pop("format")
        if found != FORMAT:
            raise UserError(
                f"{path}: format {found!r}, expected {FORMAT!r}; use the version of this program that wrote it"
            )
        if content.pop("crc32") != checksum({"format": found, **content}):
            raise ValueError("the content does not match its checksum")
        manifest = msgspec.convert(content, Manifest)
        manifest.check()
    except OSError as error:
        raise unreadable(path, error) from error
    except (ArithmeticError, LookupError, RecursionError, ValueError, msgspec.ValidationError) as error:
        raise DamagedCheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    return manifest


def _check_shards(name: str, record: ParameterRecord, shards: dict[int, list[Fragment]]) -> None:
    sizes = {fragment.tp_size for fragments in shards.values() for fragment in fragments}
    if len(sizes) != 1:
        raise ValueError(f"{name}: sharded into {sorted(sizes)}")
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


def checksum(content: dict[str, Any]) -> int:
    """Return the CRC-32 of JSON-ready ``content``, independent of its layout in a file."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
