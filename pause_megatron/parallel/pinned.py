"""Copies between CPU and GPU through pinned memory, without a wait of the host for each tensor.

A copy from or to ordinary (pageable) memory stops the host, whatever ``non_blocking`` says.
"""

from collections.abc import Iterable, Iterator

import torch

_BLOCK_BYTES = 1 << 26


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small CPU ``tensor`` to ``device``; the host does not wait. Returns it if that is the CPU."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class PinnedCopies:
    """Copies many tensors between CPU and GPU through two blocks of pinned memory of 64 MiB.

    While the GPU fills or reads one block, the host reads or fills the other; it waits once per block. Pinning all of a
    tensor's own memory would take longer than the copy.
    """

    def __init__(self, block_bytes: int = _BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._blocks: list[_Block] = []

    def copy(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Copy each source to its target, given as (target, source); both flat, of one dtype and length.

        Either may be on the GPU. When this returns, the host may read all targets, and work on the GPU that follows in
        this stream sees them.
        """
        waiting: _Block | None = None
        for block in self._filled_blocks(pairs):
            if waiting:
                waiting.drain()
            waiting = block
        if waiting:
            waiting.drain()

    def _filled_blocks(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator["_Block"]:
        """Yield blocks whose sources are copied, or are being copied by the GPU; targets are not written yet."""
        block: _Block | None = None
        for target, source in self._pieces(pairs):
            if not (target.is_cuda or source.is_cuda):
                target.copy_(source)
                continue
            if block and not block.has_room_for(source):
                yield block
                block = None
            block = block or self._next_block()
            block.put(target, source)
        if block:
            yield block

    def _pieces(
        self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Split pairs that are larger than a block."""
        for target, source in pairs:
            length = self._block_bytes // source.element_size()
            yield from zip(target.split(length), source.split(length), strict=True)

    def _next_block(self) -> "_Block":
        """Return the block that was filled longer ago, empty."""
        if len(self._blocks) < 2:
            self._blocks.append(_Block(self._block_bytes))
        else:
            self._blocks.reverse()
        block = self._blocks[-1]
        block.clear()
        return block


class _Block:
    """A block of pinned memory, and the tensors in it."""

    def __init__(self, size: int) -> None:
        self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        self._copied = torch.cuda.Event()
        self._used = 0
        self._to_host: list[tuple[torch.Tensor, torch.Tensor]] = []

    def clear(self) -> None:
        """Wait until the GPU has read or written this block, and make room."""
        self._copied.synchronize()
        self._used = 0
        self._to_host.clear()

    def has_room_for(self, tensor: torch.Tensor) -> bool:
        return self._used + tensor.nbytes <= len(self._memory)

    def put(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy ``source`` here, and from here to ``target`` if that is on the GPU."""
        here = self._memory[self._used : self._used + source.nbytes].view(source.dtype)
        self._used += -(-source.nbytes // 16) * 16  # tensors begin at multiples of 16 bytes
        here.copy_(source, non_blocking=True)
        if target.is_cuda:
            target.copy_(here, non_blocking=True)
        else:
            self._to_host.append((target, here))
        self._copied.record()

    def drain(self) -> None:
        """Copy what came from the GPU to its targets on the CPU."""
        if self._to_host:
            self._copied.synchronize()
            for target, here in self._to_host:
                target.copy_(here)
            self._to_host.clear()
