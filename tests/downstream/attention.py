"""Which keys a query attends to, by the mask that a model gets."""

import torch


def attends(mask: torch.Tensor, row: int) -> torch.Tensor:
    """Boolean [query, key] for a row of a mask: an additive one, or padding for a model that attends causally."""
    if mask.dim() == 4:
        return mask[row, 0] == 0
    real = mask[row].bool()
    return real & torch.ones(len(real), len(real), dtype=torch.bool).tril()
