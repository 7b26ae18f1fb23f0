"""Which positions of pretraining carry loss."""

from __future__ import annotations

from typing import Any


def loss_mask(labels: Any, pause_id: int) -> Any:
    """True where a position carries loss: exactly where its target is not ``<pause>``.

    ``labels`` are targets already shifted (``labels[k]`` is token ``k + 1``), a numpy array or a torch tensor of any
    shape; the result is boolean, of the same kind and shape. Goyal et al. 2024, section 3.1: the loss at ``k`` is
    dropped where token ``k + 1`` is ``<pause>``. A pause whose next token is real does carry loss.
    """
    return labels != pause_id
