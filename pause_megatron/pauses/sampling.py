"""Uniform samples without replacement, many at once and as masks: which of a row's slots hold a pause.

A sample is defined by drawing slots one after the other and passing over those already taken, until there are enough.
Instead of sorting, draws set bits of a mask; a row that is short because some fell on the same slot draws that many
more, with its next counters, until none is short. The result is the same, at a fraction of the cost of sorting.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses.counter_hash import Words, draws_below

_Integers = NDArray[np.int64]


def sample_rows(keys: Words, slots: int, count: int) -> NDArray[np.bool_]:
    """For each key ``count`` of ``slots`` slots; boolean, shape ``[keys, slots]``."""
    width = -(-slots // 8) * 8  # whole 64-bit words, in which bits are counted 5 times as fast
    mask = np.zeros((len(keys), width), dtype=bool)
    flat, starts = mask.reshape(-1), np.arange(len(keys)) * width
    flat[draws_below(slots, keys[:, None], np.arange(count)[None, :]) + starts[:, None]] = True
    taken = np.bitwise_count(mask.view(np.uint64)).sum(axis=1, dtype=np.int64)
    _fill_up(flat, keys, starts, np.full(len(keys), slots), np.full(len(keys), count), taken)
    return mask[:, :slots]


def sample_spans(keys: Words, starts: _Integers, slots: _Integers, counts: _Integers, total: int) -> NDArray[np.bool_]:
    """For each key ``counts`` slots of the span of ``slots`` that begins at ``starts``; boolean, shape ``[total]``.

    The spans are in order and do not overlap, and none is drawn more often than it has slots.
    """
    mask = np.zeros(total + 1, dtype=bool)  # one more, so that the last span may end at an index
    mask[_draws(keys, starts, slots, np.zeros_like(counts), counts)] = True
    drawn = counts > 0
    if drawn.any():
        keys, starts, slots, counts = keys[drawn], starts[drawn], slots[drawn], counts[drawn]
        borders = np.stack([starts, starts + slots], axis=1).reshape(-1)
        taken = np.add.reduceat(mask.view(np.uint8), borders, dtype=np.int64)[::2]
        _fill_up(mask, keys, starts, slots, counts, taken)
    return mask[:total]


def _fill_up(
    mask: NDArray[np.bool_], keys: Words, starts: _Integers, slots: _Integers, counts: _Integers, taken: _Integers
) -> None:
    """Go on drawing for the rows that have ``taken`` fewer slots than they drew, ``counts``."""
    drawn = counts
    while True:
        short = taken < counts
        keys, starts, slots, counts = keys[short], starts[short], slots[short], counts[short]
        drawn, taken = drawn[short], taken[short]
        if not len(keys):
            return
        missing = counts - taken
        positions = _draws(keys, starts, slots, drawn, missing)
        positions = np.unique(positions[~mask[positions]])
        mask[positions] = True
        taken = taken + np.bincount(np.searchsorted(starts, positions, side="right") - 1, minlength=len(keys))
        drawn = drawn + missing


def _draws(keys: Words, starts: _Integers, slots: _Integers, first: _Integers, counts: _Integers) -> _Integers:
    """Positions in the mask of the draws number ``first`` to ``first + counts - 1`` of every row; shape ``[draws]``."""
    row = np.repeat(np.arange(len(keys)), counts)
    counters = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    return draws_below(slots[row], keys[row], counters) + starts[row]
