"""Reads a checkpoint, whatever layout wrote it. No process group, no GPU, and nothing is unpickled."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pause_megatron.checkpoint.manifest import DamagedCheckpointError, FileRecord, Fragment, StateKey, read_manifest
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import Shard, join_shards

_READ_BYTES = 1 << 22


def tensor_key(key: StateKey, name: str) -> str:
    """Under which key a fragment's tensor stands in its safetensors file."""
    return f"{key}/{name}"


def file_record(path: Path) -> FileRecord:
    """Size and CRC-32 of a file."""
    crc, size = 0, 0
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            crc = zlib.crc32(block, crc)
            size += len(block)
    return FileRecord(bytes=size, crc32=crc)


class CheckpointReader:
    """The state of the whole model's parameters, read out of the files as it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the checkpoint in ``folder``.

        Raises :class:`~pause_megatron.checkpoint.manifest.DamagedCheckpointError` when its manifest is missing or
        damaged, and :class:`UserError` when it cannot be read.
        """
        self.folder = folder
        manifest = read_manifest(folder)
        self.state: dict[str, Any] = manifest.state
        self.optimizer: dict[str, Any] = manifest.optimizer
        self.files = manifest.files
        self.parameters = manifest.parameters
        self.state_keys = manifest.state_keys
        self._by_name: dict[str, list[Fragment]] = defaultdict(list)
        self._by_file: dict[str, list[Fragment]] = defaultdict(list)
        for fragment in manifest.fragments:
            self._by_name[fragment.name].append(fragment)
            self._by_file[fragment.file].append(fragment)
        self._open_files: dict[str, Any] = {}

    def verify(self, *, part: int = 0, parts: int = 1) -> None:
        """Compare every ``parts``-th file, from ``part`` on, with its recorded size, checksum and fragments.

        Raises :class:`~pause_megatron.checkpoint.manifest.DamagedCheckpointError` naming the first file that is missing
        or damaged, and :class:`UserError` when one cannot be read.
        """
        for name in sorted(self.files)[part::parts]:
            path = self.folder / name
            try:
                found = file_record(path)
            except FileNotFoundError as error:
                raise DamagedCheckpointError(f"{path}: missing from the checkpoint") from error
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
            if found != self.files[name]:
                raise DamagedCheckpointError(f"{path}: damaged (found {found}; written {self.files[name]})")
            for fragment in self._by_file[name]:
                for key in self.state_keys:
                    self._stored(fragment, key)

    def whole(self, name: str, key: StateKey = "master") -> torch.Tensor:
        """The state ``key`` of parameter ``name`` in the whole model, fp32, padding rows of the vocabulary included."""
        record = self.parameters[name]
        tp_size = self._by_name[name][0].tp_size if record.dim is not None else 1
        shape = record.shard_shape(tp_size)
        shards = [self._range(name, key, tp_rank, 0, math.prod(shape)).view(shape) for tp_rank in range(tp_size)]
        return join_shards(shards, dim=record.dim, blocks=record.blocks)

    def piece(self, shard: Shard, key: StateKey, start: int, length: int) -> torch.Tensor:
        """The range ``start : start + length`` of the flattened ``shard`` of a parameter, fp32.

        Reads just that where the checkpoint cuts the parameter the same way, the whole parameter otherwise.
        """
        tp_sizes = {fragment.tp_size for fragment in self._by_name[shard.name]}
        if shard.dim is None or tp_sizes == {shard.tp_size}:
            return self._range(shard.name, key, shard.tp_rank, start, length)
        return shard.slice(self.whole(shard.name, key)).reshape(-1)[start : start + length]

    def release(self) -> None:
        """Close the files that were read from, whose pages count as this process's memory while they are mapped."""
        self._open_files.clear()

    def whole_and_release(self, name: str) -> torch.Tensor:
        """The weights of parameter ``name`` as :meth:`whole` gives them, with no file kept open behind it."""
        tensor = self.whole(name)
        self.release()
        return tensor

    def _range(self, name: str, key: StateKey, tp_rank: int, start: int, length: int) -> torch.Tensor:
        """A range of the flattened shard ``tp_rank`` of parameter ``name``, put together from its fragments."""
        fragments = list(self._fragments(name, tp_rank))
        if len(fragments) == 1:
            only: torch.Tensor = self._stored(fragments[0], key)[start : start + length]
            return only
        values = torch.empty(length, dtype=torch.float32)
        for fragment in fragments:
            first, last = max(start, fragment.start), min(start + length, fragment.end)
            if first < last:
                stored = self._stored(fragment, key)[first - fragment.start : last - fragment.start]
                values[first - start : last - start] = stored
        return values

    def _fragments(self, name: str, tp_rank: int) -> Iterator[Fragment]:
        any_shard = self.parameters[name].dim is None
        return (fragment for fragment in self._by_name[name] if any_shard or fragment.tp_rank == tp_rank)

    def _stored(self, fragment: Fragment, key: StateKey) -> Any:
        """The tensor of ``fragment``, from which slices can be read."""
        path = self.folder / fragment.file
        try:
            if fragment.file not in self._open_files:
                self._open_files[fragment.file] = safe_open(path, framework="pt")
            stored = self._open_files[fragment.file].get_slice(tensor_key(key, fragment.name))
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpointError(f"{path}: damaged ({error})") from error
        if stored.get_shape() != [fragment.length]:
            raise DamagedCheckpointError(
                f"{path}: damaged ({key} of {fragment.name} has shape {stored.get_shape()}, not [{fragment.length}])"
            )
        return stored
