"""In fp32 the optimizer's weights are the model's, so one copy of them is enough."""

from __future__ import annotations

import torch.distributed as dist
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer


def share_weights(zero: DeepSpeedZeroOptimizer) -> None:
    """Make the fp32 weights that ``zero`` updates the very weights that the model computes with.

    DeepSpeed keeps a second copy whatever the precision, and after each update copies it over the first. Sharing the
    memory saves both; where this process updates a partition only, it is that partition of the model's weights.
    """
    for group, master in enumerate(zero.single_partition_of_fp32_groups):
        own = zero.parallel_partitioned_bit16_groups[group][dist.get_rank(zero.real_dp_process_group[group])]
        assert own.dtype == master.dtype
        master.data = own.data
    zero._link_all_hp_params()  # to what the master weights now are
