"""Uniform samples without replacement for many rows at once, as boolean masks of the slots that hold a pause.

By definition, a row draws slots one after the other and ignores slots already taken, until it has enough. The code sets
all first draws in a mask at once. Some draws of a row can hit the same slot; such a row draws as many more as it lacks,
with its next counters, until no row lacks any. The result is the same, and much faster than sorting random keys.

:func:`fill_rows` then puts the real tokens at the places that are left. Insertion spends its time in these functions,
so they exist twice: here, and compiled in :mod:`~pause_megatron.pauses.sampling_loops`. A :class:`Sampler` is either
module.

Shapes: K rows (one key each), S slots per row.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses.counter_hash import Words, draws_below

_Integers = NDArray[np.int64]

_DRAWS_AT_ONCE = 1 << 18
"""Draws of one span that are in memory together, at about 60 bytes each."""
_LARGE_MASK = 1 << 22
"""Slots above which memory counts more than speed."""


class Sampler(Protocol):
    """The functions that insertion needs, of this module or of its compiled form."""

    def sample_rows(self, keys: Words, slots: int, count: int) -> NDArray[np.bool_]:
        """See :func:`sample_rows`."""

    def sample_spans(
        self, keys: Words, starts: _Integers, slots: _Integers, counts: _Integers, total: int
    ) -> NDArray[np.bool_]:
        """See :func:`sample_spans`."""

    def fill_rows(
        self, rows: NDArray[np.integer], is_real: NDArray[np.bool_], stream: NDArray[np.integer], stride: int = 0
    ) -> tuple[int, int]:
        """See :func:`fill_rows`."""


def sample_rows(keys: Words, slots: int, count: int) -> NDArray[np.bool_]:
    """Choose ``count`` of ``slots`` slots for each key; boolean, shape ``[K, S]``."""
    width = -(-slots // 8) * 8  # S rounded up to 64-bit words: popcount of a word is 5 times as fast as summing bytes
    mask = np.zeros((len(keys), width), dtype=bool)
    flat, starts = mask.reshape(-1), np.arange(len(keys)) * width
    flat[draws_below(slots, keys[:, None], np.arange(count)[None, :]) + starts[:, None]] = True  # [K, count] draws
    taken = np.bitwise_count(mask.view(np.uint64)).sum(axis=1, dtype=np.int64)
    _fill_up(flat, keys, starts, np.full(len(keys), slots), np.full(len(keys), count), taken)
    return mask[:, :slots]


def sample_spans(keys: Words, starts: _Integers, slots: _Integers, counts: _Integers, total: int) -> NDArray[np.bool_]:
    """Choose ``counts[k]`` slots of the span ``starts[k]`` to ``starts[k] + slots[k] - 1`` for each key k.

    ``starts``, ``slots`` and ``counts`` have shape ``[K]``. Spans must be in order and must not overlap, and
    ``counts <= slots``. Returns a boolean mask of shape ``[total]``.
    """
    mask = np.zeros(total + 1, dtype=bool)  # one element more, because reduceat needs the end of the last span as index
    done = np.zeros_like(counts)
    while (more := np.minimum(counts - done, _DRAWS_AT_ONCE)).any():  # one round, unless a document is very long
        mask[_draws(keys, starts, slots, done, more)] = True
        done += more
    drawn = counts > 0
    if drawn.any():
        keys, starts, slots, counts = keys[drawn], starts[drawn], slots[drawn], counts[drawn]
        # start 0, end 0, start 1, end 1, ...: every second of the sums between them is that of a span
        borders = np.stack([starts, starts + slots], axis=1).reshape(-1)
        if total > _LARGE_MASK:  # reduceat would take 8 bytes for each slot
            taken = np.diff(np.searchsorted(np.flatnonzero(mask), borders))[::2]
        else:
            taken = np.add.reduceat(mask.view(np.uint8), borders, dtype=np.int64)[::2]
        _fill_up(mask, keys, starts, slots, counts, taken)
    return mask[:total]


def _fill_up(
    mask: NDArray[np.bool_], keys: Words, starts: _Integers, slots: _Integers, counts: _Integers, taken: _Integers
) -> None:
    """Draw again, in place, for rows with fewer ``taken`` slots than ``counts``; arrays of shape ``[K]``."""
    drawn = counts  # draws so far: the counter of a row's next draw
    while True:
        short = taken < counts
        keys, starts, slots, counts = keys[short], starts[short], slots[short], counts[short]
        drawn, taken = drawn[short], taken[short]
        if not len(keys):
            return
        missing = counts - taken
        positions = _draws(keys, starts, slots, drawn, missing)
        positions = np.sort(positions[~mask[positions]])  # hits of free slots
        positions = positions[np.diff(positions, prepend=-1) > 0]  # each counted once
        mask[positions] = True
        taken = taken + np.diff(np.searchsorted(positions, starts), append=len(positions))  # starts are in order
        drawn = drawn + missing


def _draws(keys: Words, starts: _Integers, slots: _Integers, first: _Integers, counts: _Integers) -> _Integers:
    """Mask positions of draws ``first[k]`` to ``first[k] + counts[k] - 1`` of every row k; shape ``[counts.sum()]``."""
    row = np.repeat(np.arange(len(keys)), counts)
    # first[k], first[k] + 1, ...: a running number minus the running number at which row k begins, plus first[k]
    counters = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    return draws_below(slots[row], keys[row], counters) + starts[row]


def fill_rows(
    rows: NDArray[np.integer], is_real: NDArray[np.bool_], stream: NDArray[np.integer], stride: int = 0
) -> tuple[int, int]:
    """Overwrite the real places of ``rows`` with the tokens of ``stream``, as many rows as it suffices for.

    Args:
        rows: tokens, contiguous, shape ``[rows, tokens]``.
        is_real: which of them are overwritten, same shape.
        stream: real tokens, shape ``[tokens]``.
        stride: number of tokens of ``stream`` between the starts of two rows, at least the real places of a row. The
            tokens behind them are left out. 0: each row begins where the one before has ended.

    Returns:
        Number of rows, and the tokens of ``stream`` that they use up.
    """
    places = np.flatnonzero(is_real)  # faster than indexing by the mask
    numbers = np.arange(1, len(rows) + 1)
    ends = np.searchsorted(places, numbers * rows.shape[1])  # real places up to the end of each row
    used = numbers * stride if stride else ends  # tokens that the first 1, 2, ... rows use up
    count = int(np.searchsorted(used, len(stream), side="right"))
    if not count:
        return 0, 0
    text = stream[: used[count - 1]]
    if stride:
        kept = np.diff(ends[:count], prepend=0)  # real places of each row
        text = text.reshape(-1, stride)[np.arange(stride) < kept[:, None]]
    rows.reshape(-1)[places[: ends[count - 1]]] = text
    return count, int(used[count - 1])
