"""Reduction of gradients over the data-parallel ranks, behind the backward pass.

Each flat buffer is a bucket. Its reduction starts when the last backward pass of a step has completed the gradients of
all its parameters, and runs while the backward pass goes on to earlier layers. The hooks are those of autograd's nodes:
they run for each parameter, also if its layer has added the gradient to ``main_grad`` itself.

All ranks must start the reductions in one order. It is the reverse of the forward pass: a bucket that is complete
waits for those before it. Gradients that model-parallel ranks must sum first come last.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist


class BucketReduction:
    """Sums buckets over a process group: every rank gets its partition, or everything."""

    def __init__(
        self,
        buffers: Sequence[torch.Tensor],
        partitions: Sequence[torch.Tensor],
        parameters: Sequence[Sequence[Any]],
        group: dist.ProcessGroup,
        *,
        late: Collection[int],
    ) -> None:
        """Reduce ``buffers`` over the ranks of ``group``.

        Args:
            buffers: flat gradients ``[N]`` of each bucket, in the order of the forward pass.
            partitions: this rank's view ``[N / D]`` of each buffer, or the buffer itself to give every rank all of it.
            parameters: the parameters of each bucket.
            group: D ranks.
            late: buckets whose gradients are complete only when :meth:`finish` is called.
        """
        self.ranks = dist.get_world_size(group)
        self._buffers, self._partitions, self._group = buffers, partitions, group
        self._late = sorted(late)
        self._order = [bucket for bucket in reversed(range(len(buffers))) if bucket not in late]
        self._sizes = [len(of_bucket) for of_bucket in parameters]
        self.is_last_pass = True
        self._nodes: list[Any] = []  # nodes live only as long as someone holds them
        if self.ranks > 1:
            for bucket in self._order:
                for parameter in parameters[bucket]:
                    node = torch.autograd.graph.get_gradient_edge(parameter).node
                    node.register_hook(partial(self._on_gradient, bucket))
                    self._nodes.append(node)
        self._reset()

    def _reset(self) -> None:
        self._missing = list(self._sizes)  # parameters of each bucket without a complete gradient
        self._started = 0  # buckets of self._order whose reduction has started
        self._running: list[dist.Work] = []

    def accumulating(self) -> "_Accumulating":
        """Context of every backward pass of a step but the last: its gradients are not complete yet."""
        return _Accumulating(self)

    def _on_gradient(self, bucket: int, *_: Any) -> None:
        if not self.is_last_pass:
            return
        assert self._missing[bucket] > 0, "a second backward pass after the last one of the step"
        self._missing[bucket] -= 1
        while self._started < len(self._order) and self._missing[self._order[self._started]] == 0:
            self._start(self._order[self._started])
            self._started += 1

    def start_all(self) -> None:
        """Start the reductions that no hook has started; the backward passes must be over."""
        for bucket in self._order[self._started :]:  # some parameters had no gradient
            self._start(bucket)
        self._started = len(self._order)

    def finish(self) -> None:
        """Reduce the late buckets, and wait until all reductions are done. On a GPU only its stream waits."""
        self.start_all()
        for bucket in self._late:
            self._start(bucket)
        for work in self._running:
            work.wait()
        self._reset()

    def _start(self, bucket: int) -> None:
        if self.ranks == 1:
            return
        buffer, partition = self._buffers[bucket], self._partitions[bucket]
        if partition.numel() == buffer.numel():
            work = dist.all_reduce(buffer, group=self._group, async_op=True)
        else:  # in place: the output is a view
            work = dist.reduce_scatter_tensor(partition, buffer, group=self._group, async_op=True)
        assert work is not None
        self._running.append(work)


class _Accumulating:
    """Not a generator: pipeline schedules never leave this context in a validation, and the garbage collector would
    leave it at any time later."""

    def __init__(self, reduction: BucketReduction) -> None:
        self._reduction = reduction

    def __enter__(self) -> None:
        self._reduction.is_last_pass = False

    def __exit__(self, *_: object) -> None:
        self._reduction.is_last_pass = True
