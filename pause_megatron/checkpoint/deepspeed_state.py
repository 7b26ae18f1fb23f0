"""DeepSpeed's private optimizer state: every touch point the checkpoints have with it.

DeepSpeed 0.19 keeps the fp32 master weights and Adam's moments in flat buffers, partitioned over the data-parallel
processes, and offers no public way to read and write a parameter's piece under every ZeRO stage. This module does, for
ZeRO-0 to -3, with the optimizer on the device or on the CPU; it is why ``setup.py`` pins DeepSpeed, and tests hold it
for each stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import deepspeed
import torch

from pause_megatron.checkpoint.manifest import StateKey

_LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What changes in a dynamic loss scaler while it works; the rest is configuration."""


def owned_range(engine: deepspeed.DeepSpeedEngine, parameter: Any) -> tuple[int, int]:
    """The piece of ``parameter`` whose optimizer state this process owns.

    Returns:
        Start and length in the flattened parameter (this process's tensor-parallel shard of it); length 0 for none.
        The pieces of all data-parallel processes are disjoint and cover the parameter, except under ZeRO-0, where each
        process owns all of it.
    """
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        length = parameter.ds_tensor.numel()
        start = engine.optimizer._get_param_partition_rank(parameter) * length
        return start, max(0, min(length, parameter.ds_numel - start))  # the last partition is padded
    mapping = parameter._hp_mapping
    return (0, 0) if mapping is None else (mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel)


def owned_state(engine: deepspeed.DeepSpeedEngine, parameter: Any, key: StateKey) -> torch.Tensor:
    """A writable flat view of the owned piece's state, on whichever device the optimizer keeps it; as long as
    :func:`owned_range` says. The moments are there after a first update or :func:`reset_optimizer`."""
    zero = engine.optimizer
    _, length = owned_range(engine, parameter)
    if hasattr(parameter, "ds_id"):
        partition, _ = zero._get_fp32_opt_state_partition(parameter, True, None if key == "master" else key)
        owned: torch.Tensor = partition.detach()[:length]
        return owned
    mapping = parameter._hp_mapping
    flat = _flat_buffers(zero)[mapping.param_group_index]
    buffer = flat if key == "master" else zero.optimizer.state[flat][key]
    owned = buffer.detach().narrow(0, mapping.hp_fragment_address.start, length)
    return owned


def optimizer_step(engine: deepspeed.DeepSpeedEngine) -> int:
    """How many updates Adam's bias correction counts; 0 before the first."""
    return max((int(state["step"]) for _, state in _adam_states(engine) if state), default=0)


def reset_optimizer(engine: deepspeed.DeepSpeedEngine, step: int) -> None:
    """Give the optimizer zero moments and the count ``step``: at 0, what it starts from by itself."""
    defaults = engine.optimizer.optimizer.defaults
    step_on_device = defaults.get("fused") or defaults.get("capturable")
    for flat, state in _adam_states(engine):
        state.clear()
        state["step"] = torch.tensor(float(step), device=flat.device if step_on_device else "cpu")
        state["exp_avg"] = torch.zeros_like(flat, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(flat, requires_grad=False)


def loss_scaler_state(engine: deepspeed.DeepSpeedEngine) -> dict[str, float] | None:
    """Scale and counters of fp16's dynamic loss scaler; None where the scale never changes."""
    scaler = engine.optimizer.loss_scaler
    return {name: getattr(scaler, name) for name in _LOSS_SCALER} if scaler.dynamic else None


def restore_loss_scaler(engine: deepspeed.DeepSpeedEngine, state: dict[str, float] | None) -> None:
    """Go on with the loss scale of :func:`loss_scaler_state`, where both runs have a dynamic one."""
    scaler = engine.optimizer.loss_scaler
    if state is not None and scaler.dynamic:
        for name in _LOSS_SCALER:
            setattr(scaler, name, state[name])


def publish_master_weights(engine: deepspeed.DeepSpeedEngine) -> None:
    """Copy the master weights to the model's own, in the model's precision, as an update does; all processes call."""
    zero = engine.optimizer
    if not engine.zero_optimization_partition_weights():
        zero.update_lp_params()
        return
    zero._partition_all_parameters()  # what is gathered now would be used as it was
    for index in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(index)


def _flat_buffers(zero: Any) -> list[torch.Tensor]:
    """The flat master buffers, one for each parameter group (ZeRO-3: for each of its parts)."""
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        buffers: list[torch.Tensor] = zero.fp32_partitioned_groups_flat  # ZeRO-3
        return buffers
    buffers = zero.single_partition_of_fp32_groups
    return buffers


def _adam_states(engine: deepspeed.DeepSpeedEngine) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    for flat in _flat_buffers(engine.optimizer):
        yield flat, engine.optimizer.optimizer.state[flat]
