"""How many pauses stand before a position: what the losses of training are told apart by."""

from __future__ import annotations

import torch


def pause_runs(tokens: torch.Tensor, pause_id: int) -> torch.Tensor:
    """The number of consecutive pauses that end at each token, 0 where the token is real.

    Args:
        tokens: input ids, ``[..., seq_length]``.
        pause_id: the id of ``<pause>``.

    Returns:
        int64, of the shape of ``tokens``. What stood before the sequence is not counted.
    """
    positions = torch.arange(tokens.shape[-1], device=tokens.device)
    is_pause = tokens == pause_id
    last_real = torch.where(is_pause, -1, positions).cummax(-1).values
    return torch.where(is_pause, positions - last_real, 0)
