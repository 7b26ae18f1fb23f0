"""Sequences of unequal length as one batch, lined up on the border between prefix and target.

Prefixes are padded on their left and targets on their right, so the last prefix token of every row stands in the same
column. "The logits from the last pause on" are then one slice, for training, scoring and generation alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pause_megatron.downstream.attention import prefix_lm_mask
from pause_megatron.pauses.prompts import TokenIds

TokenRow = Sequence[int] | TokenIds


@dataclass(frozen=True)
class BorderBatch:
    """Padded rows of prefix and target. Tensors are [batch, sequence]."""

    input_ids: torch.Tensor
    real: torch.Tensor
    """False on padding."""
    border: int
    """The column where the targets begin; the last prefix token of every row stands left of it."""

    def to(self, device: torch.device) -> BorderBatch:
        """The same batch on ``device``."""
        return BorderBatch(self.input_ids.to(device), self.real.to(device), self.border)

    def model_inputs(self, *, bidirectional: bool, dtype: torch.dtype) -> dict[str, Any]:
        """The arguments of a causal model's ``forward``.

        ``bidirectional`` says how the prefix is attended; ``dtype`` is the model's. Only the logits from the last
        prefix position on are asked for: [batch, target + 1, vocabulary].
        """
        columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        prefix = self.real & (columns < self.border) & bidirectional
        return {
            "input_ids": self.input_ids,
            "attention_mask": prefix_lm_mask(self.real, prefix, dtype),
            "position_ids": (self.real.cumsum(dim=1) - 1).clamp(min=0),
            "logits_to_keep": self.input_ids.shape[1] - self.border + 1,
        }


def line_up(prefixes: Sequence[TokenRow], targets: Sequence[TokenRow], pad_id: int) -> BorderBatch:
    """Pad ``prefixes`` on the left and ``targets`` (which may be empty) on the right; the batch is on the CPU."""
    border = max(len(prefix) for prefix in prefixes)
    width = border + max(len(target) for target in targets)
    input_ids = np.full((len(prefixes), width), pad_id, dtype=np.int64)
    real = np.zeros((len(prefixes), width), dtype=np.bool_)
    for row, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
        first, end = border - len(prefix), border + len(target)
        input_ids[row, first:border] = prefix
        input_ids[row, border:end] = target
        real[row, first:end] = True
    return BorderBatch(torch.from_numpy(input_ids), torch.from_numpy(real), border)
