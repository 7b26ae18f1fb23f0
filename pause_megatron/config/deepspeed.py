"""The ``--deepspeed`` JSON file: what is DeepSpeed's own (ZeRO stage, precision, offload, communication).

Batch sizes, accumulation, clipping, optimizer and schedule are decided by this project's configuration, in one place;
a file that sets them too is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pause_megatron.errors import UserError

OWNED_KEYS = {
    "train_batch_size": "--global-batch-size",
    "train_micro_batch_size_per_gpu": "--micro-batch-size",
    "gradient_accumulation_steps": "--global-batch-size and --micro-batch-size",
    "gradient_clipping": "--clip-grad",
    "optimizer": "--learning-rate and its neighbours",
    "scheduler": "--warmup-fraction and its neighbours",
    "managed_gradient_accumulation": "nothing: Megatron's schedule accumulates",
}
"""Keys of DeepSpeed's configuration that belong to the flags of pretraining, and the flags they belong to."""
OWNED_KEYS_OF_FINETUNING = {
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size",
    "gradient_accumulation_steps": "--gradient-accumulation-steps",
    "gradient_clipping": "--clip-grad",
    "optimizer": "--learning-rate and its neighbours",
    "scheduler": "--schedule and --warmup-steps",
}
"""The same of finetuning."""

Precision = Literal["fp32", "bf16", "fp16"]
TORCH_DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""PyTorch's name of each precision, for example ``getattr(torch, TORCH_DTYPES["bf16"])``."""
_HALVES: tuple[Precision, ...] = ("bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class DeepSpeedFile:
    """A validated ``--deepspeed`` file."""

    path: Path
    """Where it was read."""
    values: dict[str, Any]
    """Its content, passed on to DeepSpeed."""
    zero_stage: int
    """ZeRO stage, 0 to 3."""
    precision: Precision
    """What the model computes in."""
    grad_dtype: Precision
    """What gradients are accumulated in."""
    offload_optimizer: bool
    """Whether optimizer state lives in CPU memory, and is updated there."""
    offload_parameters: bool
    """Whether the weights of ZeRO-3 live in CPU memory too."""

    @property
    def gradients_stay_whole(self) -> bool:
        """Whether a process keeps all gradients of its part of the model, on its own device, until the update."""
        return self.zero_stage <= 1 and not self.offload_optimizer


def read_deepspeed_file(path: Path, owned: Mapping[str, str] = OWNED_KEYS) -> DeepSpeedFile:
    """Read and check a ``--deepspeed`` file; ``owned`` are the keys it must not set, and the flags that do.

    Raises :class:`UserError` when it is missing, is no JSON object, or sets what belongs to a flag.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--deepspeed {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"--deepspeed {path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--deepspeed {path}: expected a JSON object")
    for key, flag in owned.items():
        if key in values:
            raise UserError(f"--deepspeed {path}: remove '{key}'; it is decided by {flag}")
    return deepspeed_file(path, values)


def deepspeed_file(path: Path, values: dict[str, Any]) -> DeepSpeedFile:
    """What ``values``, the content of ``path``, mean. Raises :class:`UserError` when they contradict themselves."""
    enabled: list[Precision] = [name for name in _HALVES if values.get(name, {}).get("enabled", False)]
    if len(enabled) > 1:
        raise UserError(f"--deepspeed {path}: bf16 and fp16 cannot both be enabled")
    precision: Precision = enabled[0] if enabled else "fp32"
    zero = values.get("zero_optimization", {})
    grad_dtype: Precision = values.get("data_types", {}).get("grad_accum_dtype") or precision
    if grad_dtype not in (precision, "fp32"):
        raise UserError(
            f"--deepspeed {path}: grad_accum_dtype '{grad_dtype}': gradients can be accumulated in {precision}, as"
            " the model computes, or in 'fp32'"
        )
    return DeepSpeedFile(
        path=path,
        values=values,
        zero_stage=int(zero.get("stage", 0)),
        precision=precision,
        grad_dtype=grad_dtype,
        offload_optimizer=_offloads(path, zero, "offload_optimizer"),
        offload_parameters=_offloads(path, zero, "offload_param"),
    )


def _offloads(path: Path, zero: dict[str, Any], what: str) -> bool:
    device = zero.get(what, {}).get("device", "none")
    if device not in ("none", "cpu"):
        raise UserError(f"--deepspeed {path}: {what} to '{device}': expected 'cpu' or 'none'")
    return bool(device == "cpu")
