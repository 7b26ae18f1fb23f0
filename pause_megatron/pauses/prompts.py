"""Where pauses go downstream: between the context and the target. Finetuning, evaluation and generation all ask here.

A prompt is ``context, M pauses``: the prefix. The last pause predicts the first target token, and what the model says
at any earlier position is ignored (Goyal et al. 2024, section 3.2). At inference the pauses may also stand before the
context, which is the paper's ablation, or inside it. Pauses are ids, never text, so no wording of a prompt can produce
or break one. Where a prompt is too long its oldest context goes; pauses and target never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError

IGNORE_INDEX = -100
"""The label of a position that carries no loss; PyTorch's and Hugging Face's convention."""

TokenIds = NDArray[np.int64]


@dataclass(frozen=True)
class PausedExample:
    """One context with its pauses and its target, ready to be trained on."""

    prefix: TokenIds
    """Context, then pauses; shape [prefix_length]."""
    target: TokenIds
    """The tokens to be predicted; shape [target_length]."""

    @property
    def prefix_length(self) -> int:
        """Tokens that come before the target, pauses among them."""
        return len(self.prefix)

    @property
    def input_ids(self) -> TokenIds:
        """Prefix, then target; shape [sequence]."""
        return np.concatenate([self.prefix, self.target])

    @property
    def labels(self) -> TokenIds:
        """``input_ids`` with everything but the target ignored; shape [sequence].

        Hugging Face's alignment: position k is judged by the label at k + 1, so the last pause by the first target
        token. The labels are not shifted here because the models do it.
        """
        return np.concatenate([np.full(self.prefix_length, IGNORE_INDEX, dtype=np.int64), self.target])


def pause_prefix(
    context: Sequence[int] | TokenIds,
    num_pauses: int,
    *,
    pause_id: int | None,
    eod_id: int,
    room: int,
    at: int | None = None,
) -> TokenIds:
    """Put ``num_pauses`` pauses into ``context``, keeping the newest context that fits into ``room`` positions.

    They stand before the context's token ``at``: 0 prepends them, ``None`` appends them. An empty context becomes one
    end-of-document token: something has to predict the first target token even without a pause, and it is what stood
    before every document in pretraining.

    Returns the prefix, shape [at most ``room``]. Raises :class:`UserError` where the pauses leave no room for a single
    context token. ``pause_id`` may be ``None`` only without pauses.
    """
    room_for_context = room - num_pauses
    if room_for_context < 1:
        raise UserError(
            f"no room for the prompt: {num_pauses} pauses in the {room} positions that the target leaves; "
            "use fewer pauses, a shorter target or a model with a longer context"
        )
    if num_pauses == 0:
        pauses = np.empty(0, dtype=np.int64)
    else:
        assert pause_id is not None, "a model without <pause> cannot pause"
        pauses = np.full(num_pauses, pause_id, dtype=np.int64)
    tokens = np.asarray(context if len(context) else [eod_id], dtype=np.int64)
    kept = tokens[-room_for_context:]
    border = len(kept) if at is None else max(0, at - (len(tokens) - len(kept)))
    return np.concatenate([kept[:border], pauses, kept[border:]])


def split_at_marker(prompt: str, marker: str) -> tuple[str, str]:
    """The text before the last occurrence of ``marker``, and the text from there on.

    The halves have to be encoded one by one: a token across the border would leave no place for a pause. Raises
    :class:`UserError` for a prompt without the marker.
    """
    before, found, after = prompt.rpartition(marker)
    if not found:
        raise UserError(f"--pause-marker {marker!r}: not in the prompt {prompt!r}")
    return before, found + after
