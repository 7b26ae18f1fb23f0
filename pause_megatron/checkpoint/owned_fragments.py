"""Fragments of the optimizer state that this rank writes to a checkpoint, and copies of them in CPU memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pause_megatron.checkpoint.checkpoint_manifest import STATE_KEYS, Fragment, ParameterRecord
from pause_megatron.checkpoint.reader import tensor_key
from pause_megatron.engine import Engine
from pause_megatron.engine.optimizer_state import is_replica, optimizer_step, owned_range, owned_state, reset_optimizer
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.pinned import PinnedCopies


@dataclass(frozen=True, kw_only=True)
class FileContents:
    """Entries of the manifest for one rank's file."""

    parameters: dict[str, ParameterRecord]
    """Parameters that have a fragment in the file."""
    fragments: list[Fragment]


def owned_fragments(
    parameters: Sequence[NamedParameter], engine: Engine, file: str
) -> tuple[dict[str, torch.Tensor], FileContents]:
    """Return the tensors that this rank must write to ``file``, as flat views ``[length]`` of the optimizer's memory.

    If several ranks hold the same values, only the first writes them: parameters that tensor parallelism does not
    shard (for example norms), tied embeddings, and under ZeRO-0 everything.
    """
    tensors: dict[str, torch.Tensor] = {}
    contents = FileContents(parameters={}, fragments=[])
    if is_replica(engine):
        return tensors, contents
    if optimizer_step(engine) == 0:
        reset_optimizer(engine, 0)  # Adam creates its moments in its first update; fp16 may have skipped all so far
    for item in parameters:
        shard = item.shard
        start, length = owned_range(engine, item.parameter)
        if item.tied_copy or (shard.dim is None and shard.tp_rank != 0) or length == 0:
            continue
        for key in STATE_KEYS:
            tensors[tensor_key(key, item.name)] = owned_state(engine, item.parameter, key)
        contents.parameters[item.name] = ParameterRecord.of(shard)
        contents.fragments.append(
            Fragment(
                file=file, name=item.name, tp_rank=shard.tp_rank, tp_size=shard.tp_size, start=start, length=length
            )
        )
    return tensors, contents


class HostCopies:
    """Copies of this rank's fragments in CPU memory."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}
        self._pinned = PinnedCopies()

    def of_all(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy ``tensors``, and overwrite the result of the last call."""
        for name, tensor in tensors.items():
            if name not in self._kept:
                self._kept[name] = torch.empty_like(tensor, device="cpu")
        self._pinned.copy((self._kept[name], tensor) for name, tensor in tensors.items())
        return self._kept

    def of_gpu(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy the tensors that are on the GPU to new memory; the others are returned as they are."""
        copies = {name: torch.empty_like(tensor, device="cpu") for name, tensor in tensors.items() if tensor.is_cuda}
        self._pinned.copy((copy, tensors[name]) for name, copy in copies.items())
        return {**tensors, **copies}
