"""Publication of updated weights: fp32 master weights to the model's own, gathered behind the next forward pass.

Under ZeRO-1 each rank updates one partition of every bucket. The gathering of all buckets starts right after the
update, and a layer waits for the buckets with its own weights when it is called for the first time.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

_LAYER = re.compile(r"decoder\.layers\.\d+")


class WeightGathering:
    """Publishes the master weights of a ZeRO-0 or ZeRO-1 optimizer."""

    def __init__(self, zero: Any, chunks: Sequence[torch.nn.Module]) -> None:
        """Let the modules of ``chunks`` wait for their weights before their forward pass."""
        self._zero = zero
        self._weights = [weights.detach() for weights in zero.bit16_groups_flat]  # [N] of each bucket
        self._masters: list[torch.Tensor] = zero.single_partition_of_fp32_groups  # [N / D]
        self._own = [  # [N / D], views of the weights
            partitions[dist.get_rank(group)].detach()
            for partitions, group in zip(
                zero.parallel_partitioned_bit16_groups, zero.real_dp_process_group, strict=True
            )
        ]
        self._running: dict[int, dist.Work] = {}
        bucket_of = {parameter: bucket for bucket, group in enumerate(zero.bit16_groups) for parameter in group}
        for chunk in chunks:
            buckets: dict[str, set[int]] = defaultdict(set)
            for name, parameter in chunk.named_parameters():
                # Layers may be compiled: wait outside of them, not in their modules.
                layer = _LAYER.match(name)
                buckets[layer[0] if layer else name.rpartition(".")[0]].add(bucket_of[parameter])
            for path, needed in buckets.items():
                chunk.get_submodule(path).register_forward_pre_hook(partial(self._before_forward, sorted(needed)))

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the master weights to the model, and start to gather those of other ranks."""
        self.wait()
        if self._zero.cpu_offload:
            staging = self._zero.param_buffer_of_bit16_for_cpu_offload_groups  # pinned, in the model's precision
            torch._foreach_copy_(staging, self._masters)
            for own, on_host in zip(self._own, staging, strict=True):
                own.copy_(on_host, non_blocking=True)
        elif self._own[0].data_ptr() != self._masters[0].data_ptr():  # see share_weights
            torch._foreach_copy_(self._own, self._masters)
        for bucket, (weights, own) in enumerate(zip(self._weights, self._own, strict=True)):
            group = self._zero.real_dp_process_group[bucket]
            if dist.get_world_size(group) > 1:
                work = dist.all_gather_into_tensor(weights, own, group=group, async_op=True)
                assert work is not None
                self._running[bucket] = work

    def wait(self) -> None:
        """Wait until all weights are gathered. On a GPU only its stream waits."""
        self._before_forward(list(self._running))

    @torch.no_grad()
    def _before_forward(self, buckets: Sequence[int], *_: Any) -> None:
        if self._running:
            for bucket in buckets:
                if work := self._running.pop(bucket, None):
                    work.wait()


def share_weights(zero: Any) -> None:
    """Make the fp32 master weights of ``zero`` views of the model's own weights; for models in fp32.

    DeepSpeed keeps a second copy in every precision and copies it back after each update. Sharing saves both.
    """
    for group, master in enumerate(zero.single_partition_of_fp32_groups):
        # parallel_partitioned_bit16_groups[group] are the D partitions [N / D] of the model's flat weights [N].
        own = zero.parallel_partitioned_bit16_groups[group][dist.get_rank(zero.real_dp_process_group[group])]
        assert own.dtype == master.dtype
        master.data = own.data
    zero._link_all_hp_params()  # point every parameter's _hp_mapping to the new master weights
