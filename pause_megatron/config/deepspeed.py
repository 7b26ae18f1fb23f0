"""DeepSpeed JSON file of ``--deepspeed``: ZeRO stage, precision, offload and communication.

Flags of this project set batch sizes, accumulation, clipping, optimizer and schedule. A file that sets them too is
refused, so that every setting has one place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pause_megatron.config.checks import suggestion
from pause_megatron.errors import UserError, quoted
from pause_megatron.shipped_files import shipped_deepspeed_file, shipped_deepspeed_names

OWNED_KEYS = {
    "train_batch_size": "--global-batch-size",
    "train_micro_batch_size_per_gpu": "--micro-batch-size",
    "gradient_accumulation_steps": "--global-batch-size and --micro-batch-size",
    "gradient_clipping": "--clip-grad",
    "optimizer": "--learning-rate and the flags of its group",
    "scheduler": "--warmup-fraction and the flags of its group",
    "managed_gradient_accumulation": "the schedule of Megatron-core",
}
"""DeepSpeed keys that pretraining flags set, with these flags."""
OWNED_KEYS_OF_FINETUNING = {
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size",
    "gradient_accumulation_steps": "--gradient-accumulation-steps",
    "gradient_clipping": "--clip-grad",
    "optimizer": "--learning-rate and the flags of its group",
    "scheduler": "--schedule and --warmup-steps",
}
"""DeepSpeed keys that finetuning flags set, with these flags."""

Precision = Literal["fp32", "bf16", "fp16"]
TORCH_DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""PyTorch's name of each precision, for example ``getattr(torch, TORCH_DTYPES["bf16"])``."""


@dataclass(frozen=True, kw_only=True)
class DeepSpeedFile:
    """A validated ``--deepspeed`` file."""

    path: Path
    values: dict[str, Any]
    """Content of the file, which DeepSpeed receives."""
    zero_stage: int
    precision: Precision
    """Precision of weights and activations."""
    grad_dtype: Precision
    """Precision of gradient accumulation."""
    offload_optimizer: bool
    """Whether the optimizer state is in CPU memory and updated there."""
    offload_parameters: bool
    """Whether the weights are in CPU memory too (ZeRO-3)."""

    @property
    def gradients_stay_whole(self) -> bool:
        """Whether each rank keeps all gradients of its part of the model on its device until the update."""
        return self.zero_stage <= 1


def read_deepspeed_file(path: Path, owned: Mapping[str, str] = OWNED_KEYS) -> DeepSpeedFile:
    """Read and check a ``--deepspeed`` file; ``owned`` maps keys that it must not set to the flags that set them.

    ``path`` may also be the name of a shipped file, such as ``zero1_bf16``; a file of that path comes first.

    Raises :class:`UserError` when the file is missing, is not a JSON object, or sets one of these keys.
    """
    try:
        values = json.loads(found_deepspeed_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        names = shipped_deepspeed_names()
        raise UserError(
            f"--deepspeed {path}: no such file, and no shipped one; {suggestion(path.stem, names)}"
        ) from error
    except OSError as error:
        raise UserError(f"--deepspeed {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--deepspeed {path}: not JSON ({error}); correct the file") from error
    if not isinstance(values, dict):
        raise UserError(f"--deepspeed {path}: expected a JSON object")
    for key, flag in owned.items():
        if key in values:
            raise UserError(f"--deepspeed {path}: remove '{key}', which is set by {flag}")
    return deepspeed_file(path, values)


def found_deepspeed_file(path: Path) -> Path:
    """Return the file ``path`` if it exists, else the shipped file of that name, else ``path``."""
    return path if path.exists() else shipped_deepspeed_file(path) or path


def deepspeed_file(path: Path, values: dict[str, Any]) -> DeepSpeedFile:
    """Interpret ``values``, the content of ``path``. Raises :class:`UserError` for contradictions."""
    bf16, fp16 = (_section(path, values, name).get("enabled", False) for name in ("bf16", "fp16"))
    if bf16 and fp16:
        raise UserError(f"--deepspeed {path}: bf16 and fp16 cannot both be enabled; disable one")
    precision: Precision = "bf16" if bf16 else "fp16" if fp16 else "fp32"
    zero = _section(path, values, "zero_optimization")
    stage = zero.get("stage", 0)
    if type(stage) is not int:
        raise UserError(f"--deepspeed {path}: zero_optimization has stage {quoted(stage)}; use 0, 1, 2 or 3")
    grad_dtype: Precision = _section(path, values, "data_types").get("grad_accum_dtype") or precision
    if grad_dtype not in (precision, "fp32"):
        raise UserError(
            f"--deepspeed {path}: grad_accum_dtype {quoted(grad_dtype)} is not supported; use '{precision}', the"
            " precision of the model, or 'fp32'"
        )
    return DeepSpeedFile(
        path=path,
        values=values,
        zero_stage=stage,
        precision=precision,
        grad_dtype=grad_dtype,
        offload_optimizer=_offloads(path, zero, "offload_optimizer"),
        offload_parameters=_offloads(path, zero, "offload_param"),
    )


def _offloads(path: Path, zero: dict[str, Any], key: str) -> bool:
    device = _section(path, zero, key).get("device", "none")
    if device not in ("none", "cpu"):
        raise UserError(f"--deepspeed {path}: {key} has device {quoted(device)}; use 'cpu' or 'none'")
    return bool(device == "cpu")


def _section(path: Path, values: dict[str, Any], key: str) -> dict[str, Any]:
    section = values.get(key, {})
    if not isinstance(section, dict):
        raise UserError(f"--deepspeed {path}: '{key}' must be a JSON object; correct it")
    return section
