"""Inputs at the pauses of a dataset: ``<pause>``, the real token before it again, or the tokens of a filler.

The data keep ``<pause>``, so that places, targets and the loss mask are the same for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pause_inputs(
    tokens: torch.Tensor, runs: torch.Tensor, *, repeats_tokens: bool = False, filler: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the ids that a model reads of ``tokens``, int64 ``[..., seq_length]``.

    Args:
        tokens: ids with ``<pause>``, int64 ``[..., seq_length]``.
        runs: number of consecutive pauses that end at each token, of the same shape, from
            :func:`~pause_megatron.pauses.loss_mask.pause_runs`.
        repeats_tokens: a pause is the real token before it: ``a <pause> <pause> b`` is read as ``a a a b``. Pauses at
            the start of a sequence stay.
        filler: ids of a text, int64 ``[filler tokens]``. The i-th pause of a run is its i-th token, and a longer run
            reads the text again: ``a <pause> <pause> <pause> b`` with the filler ``x y`` is read as ``a x y x b``. A
            run starts anew at the start of a sequence.
    """
    if repeats_tokens:
        import torch

        before = torch.arange(tokens.shape[-1], device=tokens.device) - runs  # -1 without real token
        return tokens.gather(-1, before.clamp_min(0))
    if filler is not None:
        return filler[(runs - 1) % len(filler)].where(runs > 0, tokens)
    return tokens
