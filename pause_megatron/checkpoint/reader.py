"""Checkpoint reader for any layout. It needs no process group and no GPU, and unpickles nothing."""

import math
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pause_megatron.checkpoint.checkpoint_manifest import (
    WEIGHTS,
    DamagedCheckpointError,
    Fragment,
    StateKey,
    read_manifest,
    verify_file,
)
from pause_megatron.errors import system_error
from pause_megatron.model.parameters import Shard, join_shards


def tensor_key(key: StateKey, name: str) -> str:
    """Return the key of a fragment's tensor in its safetensors file."""
    return f"{key}/{name}"


class CheckpointReader:
    """State of the complete model's parameters, read from the files on demand."""

    def __init__(self, folder: Path) -> None:
        """Open the checkpoint in ``folder``; raises as :func:`read_manifest` does."""
        self.folder = folder
        manifest = read_manifest(folder)
        self.state = manifest.state
        self.optimizer = manifest.optimizer
        self.files = manifest.files
        self.parameters = manifest.parameters
        self._state_keys = manifest.state_keys
        self._by_name: dict[str, list[Fragment]] = defaultdict(list)
        self._by_file: dict[str, list[Fragment]] = defaultdict(list)
        for fragment in manifest.fragments:
            self._by_name[fragment.name].append(fragment)
            self._by_file[fragment.file].append(fragment)
        self._open_files: dict[str, Any] = {}

    def verify_sizes(self) -> None:
        """Compare files with their recorded sizes, and their tensors with the fragments; raises as :meth:`verify`."""
        for name, recorded in self.files.items():
            verify_file(self.folder / name, recorded, only_size=True)
            self._verify_fragments(name)

    def verify(self, *, part: int = 0, parts: int = 1) -> None:
        """Compare files with their recorded sizes, checksums and fragments.

        Verifies every ``parts``-th file starting with ``part``, so that ranks can share the work. Raises
        :class:`DamagedCheckpointError` that names the first missing or damaged file, and :class:`UserError` if one
        cannot be read.
        """
        for name in sorted(self.files)[part::parts]:
            verify_file(self.folder / name, self.files[name])
            self._verify_fragments(name)

    def verify_checksums(self, stop: Event) -> None:
        """Compare files with their recorded sizes and checksums, until ``stop`` is set; raises as :meth:`verify`."""
        for name, recorded in self.files.items():
            verify_file(self.folder / name, recorded, stop=stop)

    def _verify_fragments(self, file: str) -> None:
        for fragment in self._by_file[file]:
            for key in self._state_keys:
                self._stored(fragment, key)

    def read_parameter(self, name: str, key: StateKey = WEIGHTS) -> torch.Tensor:
        """Read the state ``key`` of the complete parameter ``name``, fp32, with padding rows of the vocabulary."""
        record = self.parameters[name]
        tp_size = self._by_name[name][0].tp_size if record.dim is not None else 1
        shape = record.shard_shape(tp_size)
        shards = [self._read_shard(name, key, rank, 0, math.prod(shape)).view(shape) for rank in range(tp_size)]
        return join_shards(shards, dim=record.dim, blocks=record.blocks)

    def read_range(self, shard: Shard, key: StateKey, start: int, length: int) -> torch.Tensor:
        """Read the range ``start : start + length`` of the flattened ``shard`` of a parameter, fp32 ``[length]``.

        Reads only this range if the checkpoint has the same tensor-parallel size, otherwise the complete parameter.
        """
        tp_sizes = {fragment.tp_size for fragment in self._by_name[shard.name]}
        if shard.dim is None or tp_sizes == {shard.tp_size}:
            return self._read_shard(shard.name, key, shard.tp_rank, start, length)
        return shard.slice(self.read_parameter(shard.name, key)).reshape(-1)[start : start + length]

    def read_parameter_and_release(self, name: str) -> torch.Tensor:
        """Read the weights of parameter ``name`` as :meth:`read_parameter` does, then close the mapped files.

        Their pages count as this process's memory while they are open.
        """
        tensor = self.read_parameter(name)
        self._open_files.clear()
        return tensor

    def _read_shard(self, name: str, key: StateKey, tp_rank: int, start: int, length: int) -> torch.Tensor:
        """Read the range ``start : start + length`` of the flattened shard ``tp_rank``, joined from its fragments."""
        any_shard = self.parameters[name].dim is None  # not sharded: the fragments of any rank are the parameter's
        fragments = [each for each in self._by_name[name] if any_shard or each.tp_rank == tp_rank]
        if len(fragments) == 1:
            only: torch.Tensor = self._stored(fragments[0], key)[start : start + length]
            return only
        values = torch.empty(length, dtype=torch.float32)
        for fragment in fragments:
            # Overlap of the requested range and the fragment, in positions of the flattened shard.
            first, last = max(start, fragment.start), min(start + length, fragment.end)
            if first < last:
                stored = self._stored(fragment, key)[first - fragment.start : last - fragment.start]
                values[first - start : last - start] = stored
        return values

    def _stored(self, fragment: Fragment, key: StateKey) -> Any:
        """Return the lazy safetensors slice ``[length]`` of ``fragment``; indexing it reads from the file."""
        path = self.folder / fragment.file
        try:
            if fragment.file not in self._open_files:
                self._open_files[fragment.file] = safe_open(path, framework="pt")
            stored = self._open_files[fragment.file].get_slice(tensor_key(key, fragment.name))
        except (OSError, SafetensorError) as error:
            if refused := system_error(error, path):
                raise refused from error
            raise DamagedCheckpointError(f"{path}: damaged ({error})") from error
        if stored.get_shape() != [fragment.length]:
            raise DamagedCheckpointError(
                f"{path}: damaged ({key} of {fragment.name} has shape {stored.get_shape()}, not [{fragment.length}])"
            )
        return stored


@contextmanager
def verified_meanwhile(folder: Path) -> Iterator[CheckpointReader]:
    """Yield a reader of the checkpoint in ``folder``, and compare the checksums of its files in a thread meanwhile.

    Raises as :meth:`CheckpointReader.verify` does: for the sizes of files before the block, for checksums at its end,
    and then in place of an error of the block, which may follow from the damage.
    """
    reader = CheckpointReader(folder)
    reader.verify_sizes()
    stop = Event()
    with ThreadPoolExecutor(1, "verify") as thread:
        verified = thread.submit(reader.verify_checksums, stop)
        try:
            yield reader
        except Exception:
            verified.result()
            raise
        except BaseException:  # a signal: do not wait for the thread
            stop.set()
            raise
        verified.result()
