"""PyTorch's names of the precisions that settings speak of."""

from __future__ import annotations

import torch

from pause_megatron.config.deepspeed import Precision

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
