"""Random draws that depend on nothing but what they are for: a counter-based generator after splitmix64.

Draw number ``counter`` of sequence (or document) ``sequence`` of shard ``shard`` is a hash of (seed, shard, sequence,
counter). There is no state to carry along, so batches, workers and restarts cannot change a draw, and all draws of many
sequences are one vectorised expression.

The hash is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), whose
n-th output is ``mix(key + n * GOLDEN)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


def sequence_keys(seed: int, shard: int, sequences: NDArray[np.int64]) -> Words:
    """One key for each of ``sequences`` (indices in their shard); shape as given."""
    seed_key = _mix(np.array([seed % 2**64], dtype=np.uint64))
    return _nth(_nth(seed_key, np.array([shard])), sequences)


def draws_below(bound: int | NDArray[np.int64], keys: Words, counters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers from 0 to ``bound - 1``, one for each of ``bound``, ``keys`` and ``counters`` (broadcast together).

    ``bound`` must be below 2**32. A hash's upper half is scaled to the bound, so probabilities differ by no more than
    ``bound / 2**32`` of their value.
    """
    return (((_nth(keys, counters) >> _HALF) * np.asarray(bound, dtype=np.uint64)) >> _HALF).astype(np.int64)


def _nth(keys: Words, counters: NDArray[np.int64]) -> Words:
    return _mix(keys + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _mix(words: Words) -> Words:
    """splitmix64's finaliser, in place on a copy."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words
