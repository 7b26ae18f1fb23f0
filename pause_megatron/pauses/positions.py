"""Position indices with ``--pause-positions shared``: a pause has the index of the real token before it.

PonderLM-2 (arXiv 2509.23184) and "Catch Your Breath" (Galashov et al. 2025) share indices this way. Positions then
count real tokens only, in embeddings and rotary angles. Attention stays causal over all tokens.
"""

from typing import Any


def shared_positions(is_real: Any) -> Any:
    """Return the position index of each token; int64, shape of ``is_real``.

    ``is_real`` is False at pauses (and at padding), a boolean numpy array or torch tensor ``[..., sequence]``. Pauses
    before the first real token have the index 0 too. For example, ``P a P P b P`` has ``0 0 0 0 1 1``.
    """
    return (is_real.cumsum(-1) - 1).clip(0)


def most_real_tokens(length: int, pauses_per_token: int, interval: int) -> int:
    """Return the real tokens among the first ``length`` of groups of ``interval`` tokens and their pauses."""
    groups, rest = divmod(length, interval + pauses_per_token)
    return groups * interval + min(rest, interval)
