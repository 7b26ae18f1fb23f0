"""Pauses into pretraining data: a stream of real tokens becomes the sequences that are stored.

Preprocessing hands each shard's stream (its documents, each followed by the end-of-document token) to one *strategy*,
a class here with a method ``pack``. The strategies are

- :class:`SequencePauses`, ``--pauses sequence``, the paper's (Goyal et al. 2024, section 3.1): ``<pause>`` is inserted
  uniformly at random at a share of a sequence's positions, and the longer sequence is trimmed back to its length;
- :class:`DocumentPauses`, ``--pauses document``: at random inside each document, which is stored whole and packed into
  sequences by Megatron at reading;
- :class:`EveryTokenPauses`, ``--pauses every``: a fixed number after every token, as PonderLM (arXiv 2505.20674) and
  "Catch Your Breath" (Galashov et al. 2025) train;
- :class:`NoPauses`, ``--pauses none``: the standard model's data.

All are vectorised over many sequences. What they make of a stream does not depend on how it is cut into calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses.counter_hash import Words, sequence_keys
from pause_megatron.pauses.sampling import sample_rows, sample_spans

Gaps = Literal["repeat", "distinct"]
"""``repeat``: several pauses may stand together. ``distinct``: every pause follows a real token of its own."""

_SEQUENCES_AT_ONCE = 512
"""Bounds the memory of one step, and keeps its arrays in the processor's cache."""


@dataclass(frozen=True)
class Packed:
    """The sequences that could be filled from a stream."""

    tokens: NDArray[np.integer]
    """Token ids of the sequences one after the other, pauses included; shape ``[tokens]``, of the stream's dtype."""
    lengths: NDArray[np.int32]
    """Tokens of each sequence; shape ``[sequences]``."""
    consumed: int
    """Real tokens of the stream that are done with; the stream of the next call starts behind them."""


class Strategy(Protocol):
    """How a shard's stream of real tokens becomes sequences."""

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill as many sequences as ``stream`` (shape ``[tokens]``) allows.

        ``first_sequence`` is the index in its shard of the first sequence made here.
        """
        ...


@dataclass(frozen=True)
class NoPauses:
    """Consecutive runs of ``seq_length`` real tokens."""

    seq_length: int

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Cut ``stream`` into sequences; see :class:`Strategy`."""
        count = len(stream) // self.seq_length
        consumed = count * self.seq_length
        return Packed(stream[:consumed], _equal_lengths(count, self.seq_length), consumed)


@dataclass(frozen=True)
class EveryTokenPauses:
    """Every real token, the end of a document too, is followed by ``pauses_per_token`` pauses.

    ``seq_length`` must be a multiple of ``pauses_per_token + 1``, so that a sequence starts with a real token and its
    last pause predicts the first one of the next.
    """

    seq_length: int
    pauses_per_token: int
    pause_id: int

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill sequences with ``stream`` and pauses; see :class:`Strategy`."""
        group = self.pauses_per_token + 1
        real_tokens = self.seq_length // group
        count = len(stream) // real_tokens
        consumed = count * real_tokens
        tokens = np.full((consumed, group), self.pause_id, dtype=stream.dtype)
        tokens[:, 0] = stream[:consumed]
        return Packed(tokens.reshape(-1), _equal_lengths(count, self.seq_length), consumed)


def pauses_per_sequence(pause_rate: float, seq_length: int) -> int:
    """``floor(pause_rate * seq_length)``, the number inserted before trimming: 204 for 0.1 and 2048."""
    return math.floor(round(pause_rate * seq_length, 6))  # rounded, so that 0.29 * 100 is 29


@dataclass(frozen=True)
class SequencePauses:
    """The paper's insertion: sequence by sequence, at uniformly random positions, then trimmed.

    A sequence of ``seq_length`` real tokens is lengthened by ``num_pauses``. With ``gaps="repeat"`` the pauses take a
    uniform sample, without replacement, of the positions of the lengthened sequence: they may stand together, and at
    its start. With ``"distinct"`` they follow a uniform sample of its real tokens, one each. The first ``seq_length``
    tokens are kept, and with them ``num_pauses * seq_length / (seq_length + num_pauses)`` pauses on average: 185.5 of
    the 204 at a rate of 0.1, 9.06 % of the tokens.

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
    gaps: Gaps = "repeat"

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill sequences with ``stream`` and pauses; see :class:`Strategy`."""
        at_most = len(stream) // self._fewest_needed
        tokens = np.full(at_most * self.seq_length, self.pause_id, dtype=stream.dtype)
        consumed = count = 0
        while count < at_most:
            available = len(stream) - consumed
            kept, ends = self._kept_positions(min(_SEQUENCES_AT_ONCE, at_most - count), first_sequence + count)
            needed = ends if self.trimmed == "carry" else np.arange(1, len(ends) + 1) * self.seq_length
            fitting = int(np.searchsorted(needed, available, side="right"))
            if not fitting:
                break
            text = stream[consumed : consumed + int(needed[fitting - 1])]
            here = tokens[count * self.seq_length :]
            here[kept[: ends[fitting - 1]]] = text if self.trimmed == "carry" else self._trim(text, ends[:fitting])
            consumed += len(text)
            count += fitting
        return Packed(tokens[: count * self.seq_length], _equal_lengths(count, self.seq_length), consumed)

    @property
    def _fewest_needed(self) -> int:
        """Real tokens that a sequence needs at least."""
        return self.seq_length - self.num_pauses if self.trimmed == "carry" else self.seq_length

    def _kept_positions(self, count: int, first_sequence: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where real tokens stand in the next ``count`` sequences, and how many of them up to each sequence's end.

        Positions are in all the sequences one after the other; shapes ``[kept real tokens]`` and ``[count]``.
        """
        keys = sequence_keys(self.seed, self.shard, np.arange(first_sequence, first_sequence + count))
        kept = np.flatnonzero(self._lengthened(keys)[:, : self.seq_length])
        return kept, np.searchsorted(kept, np.arange(1, count + 1) * self.seq_length)

    def _lengthened(self, keys: Words) -> NDArray[np.bool_]:
        """Where the real tokens of the lengthened sequences stand; shape ``[keys, seq_length + num_pauses]``."""
        length = self.seq_length + self.num_pauses
        if self.gaps == "repeat":
            return ~sample_rows(keys, length, self.num_pauses)
        followed = sample_rows(keys, self.seq_length, self.num_pauses)
        return _behind_tokens(followed.reshape(-1)).reshape(len(keys), length)

    def _trim(self, text: NDArray[np.integer], ends: NDArray[np.int64]) -> NDArray[np.integer]:
        """The real tokens that stay of whole sequences of ``text`` after trimming, in order."""
        kept = np.diff(ends, prepend=0)
        tokens: NDArray[np.integer] = text.reshape(-1, self.seq_length)[np.arange(self.seq_length) < kept[:, None]]
        return tokens


@dataclass(frozen=True)
class DocumentPauses:
    """Pauses inside each document, which is stored whole with its end-of-document token.

    A document of ``n`` tokens gets ``floor(pause_rate * n + 0.5)`` pauses, each behind one of its tokens: none stands
    before the first token, and one may stand right before the end-of-document token. With ``gaps="repeat"`` they take a
    uniform sample of the positions behind the first token of the lengthened document, with ``"distinct"`` they follow a
    uniform sample of the tokens, one each. No text is lost, and 10 % of the text tokens are 9.09 % of what is stored.

    The ends of documents are found by ``eod_id``, which no text is encoded to.
    """

    pause_rate: float
    pause_id: int
    eod_id: int
    seed: int
    shard: int
    gaps: Gaps = "repeat"

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Put pauses into the documents that end in ``stream``; see :class:`Strategy`."""
        ends = np.flatnonzero(stream == self.eod_id)
        consumed = int(ends[-1]) + 1 if len(ends) else 0
        text_lengths = np.diff(ends, prepend=-1) - 1
        counts = pauses_per_document(self.pause_rate, text_lengths)
        lengths = text_lengths + counts + 1
        keys = sequence_keys(self.seed, self.shard, np.arange(first_sequence, first_sequence + len(ends)))
        if self.gaps == "repeat":
            starts = np.cumsum(lengths) - lengths + 1
            is_real = ~sample_spans(keys, starts, lengths - 2, counts, int(lengths.sum()))
        else:
            starts = ends - text_lengths
            is_real = _behind_tokens(sample_spans(keys, starts, text_lengths, counts, consumed))
        tokens = np.full(is_real.shape, self.pause_id, dtype=stream.dtype)
        tokens[np.flatnonzero(is_real)] = stream[:consumed]  # faster than by the mask
        return Packed(tokens, lengths.astype(np.int32), consumed)


def pauses_per_document(pause_rate: float, text_lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """``pause_rate`` times each length (in tokens, without the end of the document), rounded, halves upwards."""
    return np.floor(np.round(pause_rate * text_lengths, 6) + 0.5).astype(np.int64)


def _behind_tokens(followed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where real tokens stand when a pause is put behind each that is ``followed`` by one.

    ``followed`` has one entry for every real token; shape ``[tokens]`` to ``[tokens + pauses]``.
    """
    before = np.flatnonzero(followed)
    is_real = np.ones(len(followed) + len(before), dtype=bool)
    is_real[before + np.arange(1, len(before) + 1)] = False
    return is_real


def _equal_lengths(count: int, length: int) -> NDArray[np.int32]:
    return np.full(count, length, dtype=np.int32)
