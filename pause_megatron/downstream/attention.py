"""Who may look at whom downstream: both ways inside the prefix, backwards only in the target (prefix-LM).

The paper finetunes and decodes with the prefix, pauses included, attended bidirectionally. GPT-2 and Llama in
transformers take a 4-D mask as it is, so this needs no change to any model.
"""

from __future__ import annotations

import torch


def prefix_lm_mask(real: torch.Tensor, prefix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The additive attention mask of a padded batch.

    ``real`` and ``prefix`` are boolean, [batch, sequence]: which positions are not padding, and which belong to the
    part that is attended both ways. Padding may stand anywhere. Without any ``prefix`` the mask is causal.

    Returns [batch, 1, query, key] in ``dtype``: 0 where the query may look, the type's most negative value elsewhere.
    Additive and finite because that is what eager attention adds to its scores and what both kinds survive without a
    NaN; padding looks at itself so that no row is empty.
    """
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    both_in_prefix = prefix[:, :, None] & prefix[:, None, :]
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    allowed = (real[:, None, :] & (causal | both_in_prefix)) | itself
    blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=real.device)
    return torch.where(allowed, torch.zeros_like(blocked), blocked)[:, None]
