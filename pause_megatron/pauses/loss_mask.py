"""Loss mask of pretraining, and the pause runs by which training reports its losses separately."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pause_megatron.pauses.pause_ids import PauseIds, is_pause

if TYPE_CHECKING:
    import torch


def loss_mask(labels: Any, pause_ids: PauseIds) -> Any:
    """True where a position carries loss: everywhere except where its target is a pause.

    ``labels`` are targets already shifted (``labels[k]`` is token ``k + 1``), a numpy array or a torch tensor of any
    shape. Returns a boolean mask of the same kind and shape. Goyal et al. 2024, section 3.1, drops the loss at ``k`` if
    token ``k + 1`` is ``<pause>``. A pause before a real token does carry loss: tokens ``a <pause> b`` have loss at
    ``<pause>``, but not at ``a``.
    """
    ids = range(pause_ids, pause_ids + 1) if isinstance(pause_ids, int) else pause_ids
    return labels != ids[0] if len(ids) == 1 else ~is_pause(labels, ids)  # one operation in the usual case


def pause_runs(tokens: torch.Tensor, pause_ids: PauseIds) -> torch.Tensor:
    """The number of consecutive pauses that end at each token, 0 at real tokens; int64, shape of ``tokens``.

    ``tokens`` are input ids, shape ``[..., seq_length]``. Pauses before the start of the sequence are not counted. For
    example, ``a <pause> <pause> b <pause>`` gives ``0 1 2 0 1``.
    """
    pauses = is_pause(tokens, pause_ids)
    pauses_so_far = pauses.cumsum(-1)  # [..., seq_length], int64
    # The count at the last real token: pauses_so_far never decreases, so cummax over real tokens carries it on.
    before_run = (pauses_so_far * ~pauses).cummax(-1).values
    runs: torch.Tensor = pauses_so_far - before_run
    return runs
