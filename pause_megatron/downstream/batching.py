"""Batches of prefixes and targets, aligned at the border between the two, with a prefix-LM attention mask.

Prefixes are padded on the left and targets on the right, so the last prefix token of every row has the same column and
one slice holds the logits that matter, in training, scoring and generation. For example, with padding ``_``::

    _ _ a b P P | c d
    a b c d P P | e _

Prompt and pauses can attend to each other in both directions, as in the paper. Most models of stock transformers accept
a 4-D mask for it (:func:`~pause_megatron.downstream.causal_models.bidirectional_problem`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pause_megatron.pauses.positions import shared_positions
from pause_megatron.pauses.prompts import PausedTokens, TokenIds, without_pauses

TokenRow = Sequence[int] | TokenIds | PausedTokens
"""Ids of a row, shape [tokens]; with :class:`PausedTokens` also which of them are pauses."""


@dataclass(frozen=True)
class BorderBatch:
    """Padded rows of prefix and target. Tensors are [batch, sequence]."""

    input_ids: torch.Tensor
    real: torch.Tensor
    """False at padding."""
    is_pause: torch.Tensor
    """True at pauses."""
    border: int
    """First column of the targets; the last prefix token of every row is in the column before it."""
    shares_positions: bool = False
    """Whether a pause has the position index of the real token before it."""

    def to(self, device: torch.device) -> BorderBatch:
        """Return the same batch on ``device``."""
        ids, real, is_pause = self.input_ids.to(device), self.real.to(device), self.is_pause.to(device)
        return replace(self, input_ids=ids, real=real, is_pause=is_pause)

    @property
    def position_ids(self) -> torch.Tensor:
        """Position index of each token in its row, [batch, sequence]; padding on the left gets 0, and no other token
        attends to it."""
        counted = self.real & ~self.is_pause if self.shares_positions else self.real
        positions: torch.Tensor = shared_positions(counted)
        return positions

    def model_inputs(self, *, bidirectional: bool, dtype: torch.dtype) -> dict[str, Any]:
        """Return the arguments of a causal model's ``forward``; ``dtype`` is the model's.

        ``bidirectional`` makes prompt and pauses attend in both directions; otherwise the mask has only the padding, so
        that a model applies its own causal mask, such as one with a sliding window. The model returns logits only from
        the last prefix position on: [batch, target + 1, vocabulary].
        """
        mask = self.attention_mask(bidirectional=True, dtype=dtype) if bidirectional else self.real.long()
        return {
            "input_ids": self.input_ids,
            "attention_mask": mask,
            "position_ids": self.position_ids,
            "logits_to_keep": self.input_ids.shape[1] - self.border + 1,
        }

    def attention_mask(self, *, bidirectional: bool, dtype: torch.dtype) -> torch.Tensor:
        """Return the additive mask of :func:`prefix_lm_mask`, [batch, 1, query, key]."""
        columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return prefix_lm_mask(self.real, self.real & (columns < self.border) & bidirectional, dtype)


def align(
    prefixes: Sequence[TokenRow], targets: Sequence[TokenRow], pad_id: int, *, shares_positions: bool = False
) -> BorderBatch:
    """Pad ``prefixes`` on the left and ``targets`` (which may be empty) on the right; the batch is on the CPU."""
    border = max(len(prefix) for prefix in prefixes)
    width = border + max(len(target) for target in targets)
    input_ids = np.full((len(prefixes), width), pad_id, dtype=np.int64)
    real, is_pause = np.zeros((2, len(prefixes), width), dtype=np.bool_)
    for row, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
        first, end = border - len(prefix), border + len(target)
        for part, columns in ((prefix, slice(first, border)), (target, slice(border, end))):
            tokens = part if isinstance(part, PausedTokens) else without_pauses(part)
            input_ids[row, columns], is_pause[row, columns] = tokens.ids, tokens.is_pause
        real[row, first:end] = True
    ids, masks = torch.from_numpy(input_ids), (torch.from_numpy(real), torch.from_numpy(is_pause))
    return BorderBatch(ids, *masks, border, shares_positions)


def prefix_lm_mask(real: torch.Tensor, prefix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the additive attention mask of a padded batch, [batch, 1, query, key] in ``dtype``.

    ``real`` and ``prefix`` are boolean, [batch, sequence]: tokens that are not padding, and tokens that attend in both
    directions. Without any ``prefix`` the mask is causal. It is 0 where the query attends to the key, and the most
    negative value of ``dtype`` elsewhere: eager attention adds it to the scores, and infinities would give NaN.
    """
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()  # [query, key]
    both_in_prefix = prefix[:, :, None] & prefix[:, None, :]  # [batch, query, key]
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    # Padding attends to itself, because a row without any key would give NaN.
    allowed = (real[:, None, :] & (causal | both_in_prefix)) | itself
    blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=real.device)
    return torch.where(allowed, torch.zeros_like(blocked), blocked)[:, None]
