"""Pauses into pretraining data: a stream of real tokens becomes training sequences of ``seq_length`` tokens.

Preprocessing hands each shard's stream (its documents, each followed by the end-of-document token) to one *strategy*,
a class here with a method ``pack``. The strategies are

- :class:`SequencePauses`, ``--pauses sequence``, the paper's (Goyal et al. 2024, section 3.1): ``<pause>`` is inserted
  uniformly at random at a share of a sequence's positions, and the longer sequence is trimmed back to its length;
- :class:`NoPauses`, ``--pauses none``: the same packing, for the standard model.

Both are vectorised over many sequences. What they make of a stream does not depend on how it is cut into calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses.counter_hash import Words, draws_below, sequence_keys

_SEQUENCES_AT_ONCE = 512
"""Bounds the memory of one step, and keeps its arrays in the processor's cache."""


@dataclass(frozen=True)
class Packed:
    """The sequences that could be filled from a stream."""

    sequences: NDArray[np.integer]
    """Token ids, shape ``[sequences, seq_length]``, of the stream's dtype."""
    consumed: int
    """Real tokens of the stream that are done with; the stream of the next call starts behind them."""
    pauses: int
    """Pauses in ``sequences``."""


class Strategy(Protocol):
    """How a shard's stream of real tokens becomes sequences."""

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill as many sequences as ``stream`` (shape ``[tokens]``) allows.

        ``first_sequence`` is the index in its shard of the first sequence made here.
        """
        ...


def pauses_per_sequence(pause_rate: float, seq_length: int) -> int:
    """``floor(pause_rate * seq_length)``, the number inserted before trimming: 204 for 0.1 and 2048."""
    return math.floor(round(pause_rate * seq_length, 6))  # rounded, so that 0.29 * 100 is 29


@dataclass(frozen=True)
class NoPauses:
    """Consecutive runs of ``seq_length`` real tokens."""

    seq_length: int

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Cut ``stream`` into sequences; see :class:`Strategy`."""
        count = len(stream) // self.seq_length
        consumed = count * self.seq_length
        return Packed(stream[:consumed].reshape(count, self.seq_length), consumed, 0)


@dataclass(frozen=True)
class SequencePauses:
    """The paper's insertion: sequence by sequence, at uniformly random positions, then trimmed.

    A sequence of ``seq_length`` real tokens is lengthened by ``num_pauses``. The pauses take a uniform sample, without
    replacement, of the positions of the lengthened sequence, so they may be adjacent. Its first ``seq_length`` tokens
    are kept, and with them ``num_pauses * seq_length / (seq_length + num_pauses)`` pauses on average: 185.5 of the 204
    at a rate of 0.1, 9.06 % of the tokens.

    The paper leaves open what becomes of the real tokens trimmed off. ``"carry"``: the next sequence starts with them,
    no text is lost, and a sequence needs only the real tokens it keeps. ``"drop"``: the next sequence starts
    ``seq_length`` real tokens further.
    """

    seq_length: int
    num_pauses: int
    pause_id: int
    seed: int
    shard: int
    trimmed: Literal["carry", "drop"] = "carry"

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill sequences with ``stream`` and pauses; see :class:`Strategy`."""
        parts: list[NDArray[np.integer]] = [np.empty((0, self.seq_length), dtype=stream.dtype)]
        consumed = pauses = 0
        while True:
            is_real, needed = self._next_patterns(len(stream) - consumed, first_sequence)
            if not len(is_real):
                return Packed(np.concatenate(parts), consumed, pauses)
            first_sequence += len(is_real)
            part = np.full(is_real.shape, self.pause_id, dtype=stream.dtype)
            part[is_real] = self._kept_tokens(stream[consumed : consumed + needed], is_real)
            parts.append(part)
            consumed += needed
            pauses += int(np.count_nonzero(~is_real))

    def _next_patterns(self, available: int, first_sequence: int) -> tuple[NDArray[np.bool_], int]:
        """Where real tokens stand in the next sequences that ``available`` ones can fill, and how many that takes."""
        fewest_kept = self.seq_length - self.num_pauses if self.trimmed == "carry" else self.seq_length
        count = min(_SEQUENCES_AT_ONCE, available // fewest_kept)
        indices = np.arange(first_sequence, first_sequence + count)
        is_real = ~self._pause_mask(sequence_keys(self.seed, self.shard, indices))[:, : self.seq_length]
        if self.trimmed == "drop":
            return is_real, count * self.seq_length
        ends = np.cumsum(np.count_nonzero(is_real, axis=1))
        count = int(np.searchsorted(ends, available, side="right"))
        return is_real[:count], int(ends[count - 1]) if count else 0

    def _kept_tokens(self, stream: NDArray[np.integer], is_real: NDArray[np.bool_]) -> NDArray[np.integer]:
        """The real tokens of ``stream`` that stay after trimming, in order."""
        if self.trimmed == "carry":
            return stream
        kept = np.count_nonzero(is_real, axis=1)
        tokens: NDArray[np.integer] = stream.reshape(is_real.shape)[np.arange(self.seq_length) < kept[:, None]]
        return tokens

    def _pause_mask(self, keys: Words) -> NDArray[np.bool_]:
        """For each key ``num_pauses`` positions of the lengthened sequence, a uniform sample without replacement.

        Shape ``[keys, at least the lengthened sequence]``. Instead of sorting, draws set positions in a mask; a row
        short of pauses because some fell on the same position draws that many more, with its next counters, until
        none is short. That is drawing one by one and passing over positions already taken.
        """
        length = self.seq_length + self.num_pauses
        width = -(-length // 8) * 8  # whole 64-bit words, in which bits are counted 5 times as fast
        mask = np.zeros((len(keys), width), dtype=bool)
        flat, words = mask.reshape(-1), mask.view(np.uint64)
        slots = draws_below(length, keys[:, None], np.arange(self.num_pauses)[None, :])
        flat[slots + np.arange(len(keys))[:, None] * width] = True
        rows, drawn = np.arange(len(keys)), np.full(len(keys), self.num_pauses)
        while True:
            missing = self.num_pauses - np.bitwise_count(words[rows]).sum(axis=1, dtype=np.int64)
            short = missing > 0
            rows, drawn, missing = rows[short], drawn[short], missing[short]
            if not len(rows):
                return mask
            row_of_draw = np.repeat(np.arange(len(rows)), missing)
            counters = np.arange(len(row_of_draw)) - np.repeat(np.cumsum(missing) - missing - drawn, missing)
            slots = draws_below(length, keys[rows[row_of_draw]], counters)
            flat[slots + rows[row_of_draw] * width] = True
            drawn += missing
