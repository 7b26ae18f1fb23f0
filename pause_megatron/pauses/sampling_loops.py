"""Compiled form of :mod:`~pause_megatron.pauses.sampling`, with equal results; importing this module needs numba.

A loop can draw one slot after the other, as samples are defined there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pause_megatron.compiled_loops import compiled
from pause_megatron.pauses import counter_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pause_megatron.pauses.counter_hash import Words

    _Integers = NDArray[np.int64]

_GOLDEN, _HALF, _ONE = counter_hash.GOLDEN, np.uint64(32), np.uint64(1)

# numba compiles it for one word, too. Its cache would not see a change there, but then datasets would change as well.
_mix: Callable[[np.uint64], np.uint64] = compiled(cast(Any, counter_hash.mix))


@compiled
def _sample(mask: NDArray[np.bool_], start: int, slots: int, count: int, key: np.uint64) -> None:
    """Choose ``count`` of the ``slots`` slots of ``mask`` from ``start`` on."""
    taken, bound, counter = 0, np.uint64(slots), np.uint64(0)
    while taken < count:
        counter += _ONE
        place = start + np.int64((_mix(key + counter * _GOLDEN) >> _HALF) * bound >> _HALF)
        if not mask[place]:
            mask[place] = True
            taken += 1


@compiled
def sample_rows(keys: Words, slots: int, count: int) -> NDArray[np.bool_]:
    """Choose ``count`` of ``slots`` slots for each key; boolean, shape ``[K, S]``."""
    mask = np.zeros(len(keys) * slots, dtype=np.bool_)
    for row in range(len(keys)):
        _sample(mask, row * slots, slots, count, keys[row])
    return mask.reshape(len(keys), slots)


@compiled
def sample_spans(keys: Words, starts: _Integers, slots: _Integers, counts: _Integers, total: int) -> NDArray[np.bool_]:
    """Choose ``counts[k]`` slots of the span ``starts[k]`` to ``starts[k] + slots[k] - 1`` for each key k.

    Arguments and result are those of :func:`pause_megatron.pauses.sampling.sample_spans`.
    """
    mask = np.zeros(total, dtype=np.bool_)
    for row in range(len(keys)):
        _sample(mask, starts[row], slots[row], counts[row], keys[row])
    return mask


@compiled
def fill_rows(rows: NDArray[Any], is_real: NDArray[np.bool_], stream: NDArray[Any], stride: int = 0) -> tuple[int, int]:
    """Overwrite the real places of ``rows`` with the tokens of ``stream``, as many rows as it suffices for.

    Arguments and result are those of :func:`pause_megatron.pauses.sampling.fill_rows`.
    """
    begin = 0
    for row in range(len(rows)):
        real, tokens = is_real[row], rows[row]
        count = 0
        for place in range(len(real)):
            count += real[place]
        after = begin + (stride if stride else count)
        if after > len(stream):
            return row, begin
        used = begin
        for place in range(len(real)):
            if real[place]:
                tokens[place] = stream[used]
                used += 1
        begin = after
    return len(rows), begin
