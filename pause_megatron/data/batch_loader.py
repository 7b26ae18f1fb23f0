"""Loads batches: a thread reads the next one while the device computes.

A batch depends only on its position, so reading ahead changes nothing. The thread reads only batches that were
announced, into pinned memory, from which the device copies without making the host wait.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch

from pause_megatron.data.batches import Batch, own_positions
from pause_megatron.data.training_sample import Sample
from pause_megatron.errors import UserError

SampleAt = Callable[[int], Sample]
"""Returns the sample at a position of training or validation."""


class Samples(Protocol):
    """A :data:`SampleAt` that knows the length of its samples."""

    @property
    def seq_length(self) -> int:
        """Tokens of a sample, without the last target."""

    def __call__(self, position: int) -> Sample:
        """Return the sample at ``position``. Raises :class:`UserError` if it cannot be read."""


class BatchLoader:
    """Loads this rank's batches. One thread reads all of them; only one other thread may call the methods."""

    def __init__(
        self,
        *,
        pause_ids: range,
        micro_batch_size: int,
        data_parallel_rank: int,
        data_parallel_size: int,
        device: torch.device,
        repeats_tokens: bool = False,
        filler: Sequence[int] = (),
        shares_positions: bool = False,
    ) -> None:
        """Make a loader; ``repeats_tokens``, ``filler`` and ``shares_positions`` are explained at :meth:`Batch.of`."""
        self._pause_ids = pause_ids
        self._inputs: dict[str, Any] = {"repeats_tokens": repeats_tokens, "shares_positions": shares_positions}
        if filler:
            self._inputs["filler"] = torch.tensor(filler, device=device)
        self._micro_batch_size = micro_batch_size
        self._rank, self._ranks = data_parallel_rank, data_parallel_size
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="batches",
            initializer=partial(torch.cuda.set_device, device) if self._on_gpu else None,  # otherwise it is GPU 0
        )
        self._announced: dict[tuple[SampleAt, int, int], Future[torch.Tensor]] = {}

    def announce(self, sample_at: SampleAt, start: int, size: int) -> None:
        """Begin to read the global batch of the ``size`` samples from position ``start`` of ``sample_at`` on."""
        key = (sample_at, start, size)
        if key not in self._announced:
            self._announced[key] = self._thread.submit(self._read, *key)

    def load(self, sample_at: SampleAt, start: int, size: int) -> Batch:
        """Return this rank's part of a global batch on the device. Raises any error of reading it."""
        self.announce(sample_at, start, size)
        samples = self._announced.pop((sample_at, start, size)).result()
        on_device = samples.to(self._device, non_blocking=True)
        return Batch.of(on_device, self._pause_ids, **self._inputs)

    def load_or_blank(self, sample_at: Samples, start: int, size: int) -> tuple[Batch, str]:
        """Return what :meth:`load` returns, and no failure; or, if it raises, a batch without loss, and its failure.

        A rank that raised during a step would leave the others hanging.
        """
        try:
            return self.load(sample_at, start, size), ""
        except UserError as error:
            shape = (*self._shape(size), sample_at.seq_length + 1)
            samples = torch.full(shape, self._pause_ids[0], dtype=torch.int64, device=self._device)
            return Batch.of(samples, self._pause_ids), str(error)

    def close(self) -> None:
        """Stop the thread. Batches that were announced but not loaded are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _shape(self, size: int) -> tuple[int, int]:
        """Return this rank's number of microbatches in a global batch of ``size``, and the sequences in each."""
        return size // (self._ranks * self._micro_batch_size), self._micro_batch_size

    def _read(self, sample_at: SampleAt, start: int, size: int) -> torch.Tensor:
        """Read this rank's samples in the thread, int64 ``[M, B, S + 1]`` in CPU memory."""
        shape = self._shape(size)
        positions = own_positions(
            start,
            num_microbatches=shape[0],
            micro_batch_size=self._micro_batch_size,
            data_parallel_rank=self._rank,
            data_parallel_size=self._ranks,
        )
        samples = [sample_at(position) for position in positions]
        read = torch.empty((*shape, len(samples[0])), dtype=torch.int64, pin_memory=self._on_gpu)
        for row, sample in zip(read.flatten(0, 1).numpy(), samples, strict=True):
            row[:] = sample  # from the dtype of the file to int64
        return read
