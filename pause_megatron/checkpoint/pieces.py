"""The pieces of the optimizer's state that this process writes, and copies of them in CPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pause_megatron.checkpoint.manifest import STATE_KEYS, Fragment, ParameterRecord
from pause_megatron.checkpoint.reader import tensor_key
from pause_megatron.engine import DeepSpeedEngine
from pause_megatron.engine.optimizer_state import is_replica, optimizer_step, owned_range, owned_state, reset_optimizer
from pause_megatron.model.parameters import NamedParameter


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a process's file holds."""

    parameters: dict[str, ParameterRecord]
    """The parameters of which it has a piece."""
    fragments: list[Fragment]
    """The pieces."""


def own_pieces(
    parameters: Sequence[NamedParameter], engine: DeepSpeedEngine, file: str
) -> tuple[dict[str, torch.Tensor], Contents]:
    """The pieces this process is to write to ``file``, by their keys there, as views of the optimizer's memory.

    What several processes hold alike is written by the first of them: parameters that tensor parallelism does not cut,
    tied embeddings, and under ZeRO-0 everything.
    """
    tensors: dict[str, torch.Tensor] = {}
    contents = Contents(parameters={}, fragments=[])
    if is_replica(engine):
        return tensors, contents
    if optimizer_step(engine) == 0:
        reset_optimizer(engine, 0)  # Adam makes its moments at its first update; fp16 may have skipped all so far
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
    """Room in CPU memory for one copy of this process's pieces, used again by every save."""

    def __init__(self) -> None:
        self._copies: dict[str, torch.Tensor] = {}

    def take(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy ``tensors``; what the last call gave is overwritten."""
        for name, tensor in tensors.items():
            if name not in self._copies:
                self._copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._copies[name].copy_(tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self._copies
