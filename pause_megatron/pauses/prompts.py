"""Placement of pauses in prompts, for finetuning, evaluation and generation.

A prompt is ``context, M pauses``: the prefix. The last pause predicts the first target token, and outputs at earlier
positions are ignored (Goyal et al. 2024, section 3.2). At inference, pauses can also be placed before the context (the
paper's ablation) or inside it. Pauses are ids, not text, so no wording of a prompt can produce or break one. If a
prompt is too long, its oldest context tokens are dropped, but never pauses, target tokens or a beginning-of-text token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError

IGNORE_INDEX = -100
"""Label of a position without loss, by the convention of PyTorch and Hugging Face."""

TokenIds = NDArray[np.int64]


@dataclass(frozen=True)
class PausedExample:
    """One training example: context, pauses and target."""

    prefix: TokenIds
    """Context, then pauses; shape [prefix]."""
    target: TokenIds
    """Tokens to predict; shape [target]."""

    @property
    def input_ids(self) -> TokenIds:
        """Prefix, then target; shape [sequence]."""
        return np.concatenate([self.prefix, self.target])

    @property
    def labels(self) -> TokenIds:
        """``input_ids`` with :data:`IGNORE_INDEX` at the prefix; shape [sequence].

        Labels are not shifted: Hugging Face models compare the output at position k with the label at k + 1, so that at
        the last pause with the first target token.
        """
        return np.concatenate([np.full(len(self.prefix), IGNORE_INDEX, dtype=np.int64), self.target])


def pause_prefix(
    context: Sequence[int] | TokenIds,
    num_pauses: int,
    *,
    pause_id: int | None,
    eod_id: int,
    room: int,
    at: int | None = None,
    start: int = 0,
) -> TokenIds:
    """Insert ``num_pauses`` pauses into ``context``, and drop the oldest context tokens beyond ``room`` positions.

    The first ``start`` context tokens, a beginning-of-text token or none, always stay, and no pause precedes them.
    Pauses are inserted before token ``at`` of the context: ``start`` prepends them, ``None`` appends them. An empty
    context becomes one end-of-document token, as before every document in pretraining, since some token must predict
    the first target token even without pauses. ``pause_id`` may be ``None`` only if ``num_pauses`` is 0.

    Returns the prefix, shape [at most ``room``]. Raises :class:`UserError` if the pauses leave no room for a context
    token.
    """
    tokens = np.asarray(context if len(context) else [eod_id], dtype=np.int64)
    room_for_context = room - num_pauses
    if room_for_context < min(len(tokens), start + 1):
        raise UserError(
            f"no room for the prompt: {num_pauses} pauses in the {room} positions before the target; "
            "use fewer pauses, a shorter target or a model with a longer context"
        )
    if num_pauses == 0:
        pauses = np.empty(0, dtype=np.int64)
    else:
        assert pause_id is not None, "a model without <pause> cannot pause"
        pauses = np.full(num_pauses, pause_id, dtype=np.int64)
    dropped = max(0, len(tokens) - room_for_context)
    kept = np.concatenate([tokens[:start], tokens[start + dropped :]])
    border = len(kept) if at is None else max(start, at - dropped)
    return np.concatenate([kept[:border], pauses, kept[border:]])


def split_at_marker(prompt: str, marker: str) -> tuple[str, str]:
    """The text before the last occurrence of ``marker``, and the text from there on.

    Encode the halves separately: a token across the border would leave no place for a pause. For example,
    ``"Q: 1+1? A:"`` with the marker ``"A:"`` gives ``("Q: 1+1? ", "A:")``. Raises :class:`UserError` if the prompt does
    not contain the marker.
    """
    before, found, after = prompt.rpartition(marker)
    if not found:
        raise UserError(
            f"--pause-marker {marker!r}: not in the prompt {prompt!r}; give a text that every prompt contains"
        )
    return before, found + after
