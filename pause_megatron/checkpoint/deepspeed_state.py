"""DeepSpeed's private optimizer state: every touch point this project has with it.

DeepSpeed 0.19 keeps the fp32 master weights and Adam's moments in flat buffers, partitioned over the data-parallel
processes, and offers no public way to read and write a parameter's piece under every ZeRO stage. This module does, for
ZeRO-1, -2 and -3; it is why ``setup.py`` pins DeepSpeed, and tests hold it for each stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import deepspeed
import torch

StateKey = Literal["master", "exp_avg", "exp_avg_sq"]
STATE_KEYS: tuple[StateKey, ...] = ("master", "exp_avg", "exp_avg_sq")
"""What is kept of a parameter: the fp32 weight and Adam's two moments."""


def owned_range(engine: deepspeed.DeepSpeedEngine, parameter: Any) -> tuple[int, int]:
    """The piece of ``parameter`` whose optimizer state this process owns.

    Returns:
        Start and length in the flattened parameter (this process's tensor-parallel shard of it); length 0 for none.
        The pieces of all data-parallel processes are disjoint and cover the parameter.
    """
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        length = parameter.ds_tensor.numel()
        start = engine.optimizer._get_param_partition_rank(parameter) * length
        return start, max(0, min(length, parameter.ds_numel - start))  # the last partition is padded
    mapping = parameter._hp_mapping
    return (0, 0) if mapping is None else (mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel)


def owned_state(engine: deepspeed.DeepSpeedEngine, parameter: Any, key: StateKey) -> torch.Tensor:
    """A writable flat fp32 view of the owned piece's state; its length is that of :func:`owned_range`."""
    zero = engine.optimizer
    _, length = owned_range(engine, parameter)
    if hasattr(parameter, "ds_id"):
        partition, _ = zero._get_fp32_opt_state_partition(parameter, True, None if key == "master" else key)
        owned: torch.Tensor = partition[:length]
        return owned
    mapping = parameter._hp_mapping
    flat = _flat_buffers(zero)[mapping.param_group_index]
    buffer = flat if key == "master" else zero.optimizer.state[flat][key]
    owned = buffer.detach().narrow(0, mapping.hp_fragment_address.start, length)
    return owned


def optimizer_step(engine: deepspeed.DeepSpeedEngine) -> int:
    """How many updates Adam's bias correction counts; 0 before the first."""
    steps = [int(state["step"]) for _, state in _adam_states(engine) if "step" in state]
    return max(steps, default=0)


def prepare_optimizer_state(engine: deepspeed.DeepSpeedEngine, step: int) -> None:
    """Give a fresh optimizer zero moments and the count ``step``, so that pieces can be written into it."""
    for flat, state in _adam_states(engine):
        state.clear()
        state["step"] = torch.tensor(float(step), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(flat)
        state["exp_avg_sq"] = torch.zeros_like(flat)


def publish_master_weights(engine: deepspeed.DeepSpeedEngine, parameters: list[Any]) -> None:
    """Copy the master weights to the model's own (all-gathered, in the model's precision)."""
    zero = engine.optimizer
    if not hasattr(zero, "fp32_partitioned_groups_flat"):
        zero.update_lp_params()
        return
    for index, flat in enumerate(zero.fp32_partitioned_groups_flat):
        zero.fp16_partitioned_groups_flat[index].data.copy_(flat.data)
        zero._unflatten_partitioned_parameters(index)
    for parameter in parameters:
        if parameter.ds_status == deepspeed.runtime.zero.partition_parameters.ZeroParamStatus.AVAILABLE:
            parameter.partition()


def _flat_buffers(zero: Any) -> list[torch.Tensor]:
    """The flat fp32 master buffers, one for each parameter group, under whatever name the ZeRO stage keeps them."""
    for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat"):
        if hasattr(zero, name):
            buffers: list[torch.Tensor] = getattr(zero, name)
            return buffers
    raise AssertionError(f"{type(zero).__name__} is no ZeRO optimizer this project knows")


def _adam_states(engine: deepspeed.DeepSpeedEngine) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    for flat in _flat_buffers(engine.optimizer):
        yield flat, engine.optimizer.optimizer.state[flat]
