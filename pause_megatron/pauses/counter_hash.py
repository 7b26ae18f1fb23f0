"""Counter-based random generator: every draw is a hash of (seed, shard, sequence, counter).

A generator without state makes draws independent of batches, workers and restarts, and computes all draws of many
sequences in one vectorised expression. For documents, ``sequence`` is the index of the document.

The hash is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014); its n-th
output is ``mix(key + n * GOLDEN)``.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Step of the generator, an odd number near 2**64 divided by the golden ratio."""
_HALF = np.uint64(32)


def sequence_keys(seed: int, shard: int, sequences: NDArray[np.int64]) -> Words:
    """Keys of ``sequences`` (indices in their shard), one each; same shape."""
    seed_key = mix(np.array([seed % 2**64], dtype=np.uint64))
    return _nth(_nth(seed_key, np.array([shard])), sequences)


def draws_below(bound: int | NDArray[np.int64], keys: Words, counters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers from 0 to ``bound - 1``; ``bound``, ``keys`` and ``counters`` broadcast to the shape of the result.

    ``bound`` must be below 2**32. Probabilities are uniform up to a relative error of ``bound / 2**32``.
    """
    # (upper 32 bits of the hash) * bound / 2**32, in integers: multiply-shift instead of a modulo
    return (((_nth(keys, counters) >> _HALF) * np.asarray(bound, dtype=np.uint64)) >> _HALF).astype(np.int64)


def _nth(keys: Words, counters: NDArray[np.int64]) -> Words:
    return mix(keys + (counters.astype(np.uint64) + np.uint64(1)) * GOLDEN)


def mix(words: Words) -> Words:
    """Apply the finaliser of splitmix64."""
    words = words ^ (words >> np.uint64(30))  # a new array; the steps below work in place
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words
