"""Ids of pauses: one ``<pause>``, or distinct ones, ``<pause1>`` to ``<pausek>``, by their place in a run of pauses.

Distinct pauses have consecutive ids, so a range holds them. The i-th pause of a run is ``<pausei>``, and in a run
longer than k the last one repeats: for k = 2, ``a <pause1> <pause2> <pause2> b``. A run ends at a real token and at the
end of a stored sequence. "Catch Your Breath" (Galashov et al. 2025) uses distinct pauses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError

PauseIds = int | range
"""Id of ``<pause>``, or the consecutive ids of distinct pauses."""


def is_pause(tokens: Any, pause_ids: PauseIds) -> Any:
    """Return where ``tokens``, a numpy array or a torch tensor of any shape, are pauses: a boolean mask of its kind."""
    if isinstance(pause_ids, int):
        return tokens == pause_ids
    if len(pause_ids) == 1:
        return tokens == pause_ids[0]
    return (tokens >= pause_ids[0]) & (tokens <= pause_ids[-1])


def ids_of_run(pause_ids: Sequence[int], length: int) -> NDArray[np.int64]:
    """Return the ids of a run of ``length`` pauses, shape ``[length]``."""
    return np.asarray(pause_ids, dtype=np.int64)[np.minimum(np.arange(length), len(pause_ids) - 1)]


def cycled(filler: Sequence[int], length: int) -> tuple[int, ...]:
    """Return the ids of a run of ``length`` pauses that read the text ``filler`` again and again from its start.

    For example, a filler ``a b c`` and 5 pauses give ``a b c a b``.
    """
    return tuple(filler[place % len(filler)] for place in range(length))


def ids_of_filler(filler: str, encode: Callable[[str], Sequence[int]], vocab_size: int) -> tuple[int, ...]:
    """Return the ids of the text ``filler``; a number that is not one token is a token id below ``vocab_size``.

    Raises :class:`UserError` for a text without tokens.
    """
    ids = tuple(encode(filler))
    if len(ids) > 1 and filler.isdecimal() and int(filler) < vocab_size:
        return (int(filler),)
    if not ids:
        raise UserError(f"--filler {filler!r}: has no token; give another text")
    return ids


def number_pauses(
    tokens: NDArray[np.integer], pauses: NDArray[np.bool_], lengths: NDArray[np.integer], pause_ids: range
) -> None:
    """Overwrite the pauses in ``tokens`` with the ids of their places in their runs.

    Args:
        tokens: tokens of consecutive sequences, shape ``[tokens]``.
        pauses: which of them are pauses, same shape.
        lengths: length of each sequence, shape ``[sequences]``; a run ends with its sequence.
        pause_ids: ids of distinct pauses.
    """
    places = np.arange(len(tokens))
    before_run = np.where(pauses, -1, places)  # the last real token so far, after the next two lines
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    before_run[starts] = np.maximum(before_run[starts], starts - 1)
    number = places - np.maximum.accumulate(before_run)  # of each pause in its run, from 1
    tokens[pauses] = pause_ids[0] + np.minimum(number[pauses], len(pause_ids)) - 1
