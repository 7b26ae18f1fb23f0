"""Reads and writes this rank's optimizer state under every ZeRO stage, for checkpoints and metrics.

DeepSpeed keeps the fp32 master weights and Adam's moments in flat buffers, partitioned over the data-parallel ranks. It
has no public way to read and write one parameter's part under every ZeRO stage.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from megatron.core import parallel_state

from pause_megatron.engine import Engine

_LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""Attributes of a dynamic loss scaler that change during training; the others are configuration."""


def owned_range(engine: Engine, parameter: Any) -> tuple[int, int]:
    """The range of ``parameter`` whose optimizer state this rank owns.

    Returns:
        Start and length in the flattened parameter (this rank's tensor-parallel shard of it); length 0 for none. The
        ranges of all data-parallel ranks are disjoint and cover the parameter, except under ZeRO-0, where each rank
        owns all of it. For example, two ranks may own (0, 6) and (6, 4) of a parameter of 10 elements.
    """
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        length = parameter.ds_tensor.numel()
        start = engine.deepspeed.optimizer._get_param_partition_rank(parameter) * length
        return start, max(0, min(length, parameter.ds_numel - start))  # the last partition is padded
    mapping = parameter._hp_mapping
    return (0, 0) if mapping is None else (mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel)


def owned_state(engine: Engine, parameter: Any, key: Literal["master", "exp_avg", "exp_avg_sq"]) -> torch.Tensor:
    """A writable flat view ``[length]`` of the state of :func:`owned_range`, on the optimizer's device.

    The moments (``exp_avg`` and ``exp_avg_sq``) exist after the first update or :func:`reset_optimizer`.
    """
    zero = engine.deepspeed.optimizer
    _, length = owned_range(engine, parameter)
    if hasattr(parameter, "ds_id"):  # ZeRO-3; only the last partition is padded, at its end
        buffer, _ = zero._get_fp32_opt_state_partition(parameter, True, None if key == "master" else key)
        start = 0
    else:
        flat = _flat_buffers(zero)[parameter._hp_mapping.param_group_index]
        buffer = flat if key == "master" else zero.optimizer.state[flat][key]
        start = parameter._hp_mapping.hp_fragment_address.start
    owned: torch.Tensor = buffer.detach().narrow(0, start, length)
    return owned


def is_replica(engine: Engine) -> bool:
    """Whether a lower rank owns the same state: under ZeRO-0 DeepSpeed has groups of one rank, see ``DeepSpeedMpu``."""
    return bool(engine.deepspeed.mpu.get_data_parallel_rank() != parallel_state.get_data_parallel_rank())


def optimizer_step(engine: Engine) -> int:
    """Number of updates in Adam's bias correction; 0 before the first."""
    return max((int(state["step"]) for _, state in _adam_states(engine) if state), default=0)


def reset_optimizer(engine: Engine, step: int) -> None:
    """Set the moments to zero and the number of updates to ``step``; 0 is the state of a new optimizer."""
    defaults = engine.deepspeed.optimizer.optimizer.defaults
    step_on_device = defaults.get("fused") or defaults.get("capturable")
    for flat, state in _adam_states(engine):
        state.clear()
        state["step"] = torch.tensor(float(step), device=flat.device if step_on_device else "cpu")
        state["exp_avg"] = torch.zeros_like(flat, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(flat, requires_grad=False)


def loss_scaler_state(engine: Engine) -> dict[str, float] | None:
    """Scale and counters of fp16's dynamic loss scaler; None for a constant scale."""
    scaler = engine.deepspeed.optimizer.loss_scaler
    return {name: getattr(scaler, name) for name in _LOSS_SCALER} if scaler.dynamic else None


def restore_loss_scaler(engine: Engine, state: dict[str, float] | None) -> None:
    """Set the loss scaler to :func:`loss_scaler_state` of an earlier run, if both scalers are dynamic."""
    scaler = engine.deepspeed.optimizer.loss_scaler
    if state is not None and scaler.dynamic:
        for name in _LOSS_SCALER:
            setattr(scaler, name, state[name])


def _flat_buffers(zero: Any) -> list[torch.Tensor]:
    """The flat fp32 buffers, one for each parameter group (ZeRO-3: for each of its sub-groups)."""
    zero_3 = hasattr(zero, "fp32_partitioned_groups_flat")
    buffers: list[torch.Tensor] = zero.fp32_partitioned_groups_flat if zero_3 else zero.single_partition_of_fp32_groups
    return buffers


def _adam_states(engine: Engine) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    for flat in _flat_buffers(engine.deepspeed.optimizer):
        yield flat, engine.deepspeed.optimizer.optimizer.state[flat]
