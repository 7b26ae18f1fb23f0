"""Counts the live bytes of all tensors in a process; on CPUs no allocator reports them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Follows every storage that is allocated inside the block until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        self._memory: dict[int, range] = {}
        """Addresses of each storage."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self._follow(tensor.untyped_storage())
        return results

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size, address = storage._cdata, storage.nbytes(), storage.data_ptr()
        # A storage inside another one, for example a tensor from DLPack, takes no memory of its own.
        if key not in self._storages and not any(address in memory for memory in self._memory.values()):
            self._storages[key] = weakref.ref(storage, lambda _: self._freed(key, size))
            self._memory[key] = range(address, address + size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        del self._storages[key], self._memory[key]
        self.now -= size

    def forget_peak(self) -> None:
        """Reset the peak to the current value."""
        gc.collect()
        self.peak = self.now


def kept_for_backward(model: torch.nn.Module, *inputs: Any, **keywords: Any) -> int:
    """Bytes of the distinct storages that autograd keeps of ``model``'s forward pass, without parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(*inputs, **keywords)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
