"""Insertion of pauses into pretraining data: turns a stream of real tokens into the sequences that are stored.

Preprocessing passes each shard's stream (its documents, each followed by the end-of-document token) to one *strategy*,
a class here with a method ``pack``. All work on many sequences at once. The result for a stream does not depend on
how it is divided into calls.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses import sampling
from pause_megatron.pauses.counter_hash import Words, sequence_keys
from pause_megatron.pauses.pause_counts import Rates, draw_numbers, draw_rates, pauses_per_document, text_lengths_of
from pause_megatron.pauses.sampling import Sampler

Gaps = Literal["repeat", "distinct"]
"""``repeat``: pauses may follow each other, for example ``a <pause> <pause> b``. ``distinct``: every pause follows a
real token of its own."""

_SEQUENCES_AT_ONCE = 512
"""Sequences per step; bounds the memory of a step, and keeps its arrays in the processor's cache."""


@dataclass(frozen=True)
class Packed:
    """Sequences filled from a stream."""

    tokens: NDArray[np.integer]
    """Token ids of all sequences, including pauses; shape ``[tokens]``, dtype of the stream."""
    lengths: NDArray[np.int32]
    """Tokens of each sequence; shape ``[sequences]``."""
    consumed: int
    """Real tokens used up; the stream of the next call must start after them."""


class Strategy(Protocol):
    """Turns a shard's stream of real tokens into sequences."""

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill as many sequences as ``stream`` (shape ``[tokens]``) allows.

        ``first_sequence`` is the index, in the shard, of the first sequence of this call.
        """

    def real_places(self, lengths: NDArray[np.integer], first_sequence: int) -> NDArray[np.bool_]:
        """Return which tokens of consecutive sequences are real, as :meth:`pack` places them; the rest are pauses.

        The places do not depend on the text, so this checks a stored dataset without its text.

        Args:
            lengths: stored length of each sequence in tokens, shape ``[sequences]``.
            first_sequence: index in its shard of the first of them.

        Returns:
            Boolean, shape ``[sum(lengths)]``.
        """


@dataclass(frozen=True)
class NoPauses:
    """``--pauses none``, the data of the standard model: consecutive runs of ``seq_length`` real tokens."""

    seq_length: int

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Cut ``stream`` into sequences; see :class:`Strategy`."""
        count = len(stream) // self.seq_length
        consumed = count * self.seq_length
        return Packed(stream[:consumed], np.full(count, self.seq_length, np.int32), consumed)

    def real_places(self, lengths: NDArray[np.integer], first_sequence: int) -> NDArray[np.bool_]:
        """Every token is real; see :class:`Strategy`."""
        return np.ones(int(lengths.sum()), dtype=bool)


@dataclass(frozen=True)
class EveryTokenPauses:
    """``--pauses every``: ``pauses_per_token`` pauses after every real token, including the end-of-document token.

    PonderLM (arXiv 2505.20674) and "Catch Your Breath" (Galashov et al. 2025) insert pauses this way. With
    ``interval`` the pauses come after every ``interval``-th real token of a sequence only: ``a b P P c d P P`` is
    ``interval=2`` and ``pauses_per_token=2``. ``seq_length`` must be a multiple of ``interval + pauses_per_token``, a
    group. Every sequence then starts with a real token, and its last pause predicts the first token of the next one.
    """

    seq_length: int
    pauses_per_token: int
    pause_id: int
    interval: int = 1

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill sequences with ``stream`` and pauses; see :class:`Strategy`."""
        group = self.interval + self.pauses_per_token
        real_tokens = self.seq_length // group * self.interval
        count = len(stream) // real_tokens
        consumed = count * real_tokens
        tokens = np.full((consumed // self.interval, group), self.pause_id, dtype=stream.dtype)  # a row per group
        tokens[:, : self.interval] = stream[:consumed].reshape(-1, self.interval)
        return Packed(tokens.reshape(-1), np.full(count, self.seq_length, np.int32), consumed)

    def real_places(self, lengths: NDArray[np.integer], first_sequence: int) -> NDArray[np.bool_]:
        """The first ``interval`` tokens of each group are real; see :class:`Strategy`."""
        place_in_group = np.arange(int(lengths.sum())) % (self.interval + self.pauses_per_token)
        is_real: NDArray[np.bool_] = place_in_group < self.interval
        return is_real


@dataclass(frozen=True)
class SequencePauses:
    """``--pauses sequence``: pauses at uniformly random positions of each sequence, which is then trimmed.

    This is the paper's insertion (Goyal et al. 2024, section 3.1).
    A sequence of ``seq_length`` real tokens grows by ``num_pauses`` pauses, and the first ``seq_length`` tokens of the
    result are kept. These contain ``num_pauses * seq_length / (seq_length + num_pauses)`` pauses on average: 185.5 of
    204 at a rate of 0.1, or 9.06 % of the tokens.

    - ``gaps="repeat"``: the pauses take a uniform sample, without replacement, of the positions of the longer
      sequence. They may follow each other, and may start a sequence.
    - ``gaps="distinct"``: the pauses follow a uniform sample of the real tokens, one each.

    The paper does not say what happens to the trimmed real tokens.

    - ``trimmed="carry"``: the next sequence starts with them. No text is lost.
    - ``trimmed="drop"``: they are lost; the next sequence starts ``seq_length`` real tokens after this one.

    With ``rates="drawn"`` each sequence grows by a number drawn from 0 to ``2 * num_pauses``.
    """

    seq_length: int
    num_pauses: int
    pause_id: int
    seed: int
    shard: int
    trimmed: Literal["carry", "drop"] = "carry"
    gaps: Gaps = "repeat"
    rates: Rates = "fixed"
    sampler: Sampler = sampling

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Fill sequences with ``stream`` and pauses; see :class:`Strategy`."""
        carries = self.trimmed == "carry"
        # Real tokens per sequence: those kept (carry; at least seq_length without all pauses), or seq_length (drop)
        most_pauses = 2 * self.num_pauses if self.rates == "drawn" else self.num_pauses
        at_most = len(stream) // (self.seq_length - most_pauses if carries else self.seq_length)
        tokens = np.full((at_most, self.seq_length), self.pause_id, dtype=stream.dtype)
        consumed = count = 0
        while count < at_most:
            here = tokens[count : count + _SEQUENCES_AT_ONCE]
            is_real = self.real_places(np.full(len(here), self.seq_length), first_sequence + count)
            # The stream may suffice for some of these sequences only
            stride = 0 if carries else self.seq_length
            filled, used = self.sampler.fill_rows(here, is_real.reshape(here.shape), stream[consumed:], stride)
            count += filled
            consumed += used
            if filled < len(here):
                break
        return Packed(tokens[:count].reshape(-1), np.full(count, self.seq_length, np.int32), consumed)

    def real_places(self, lengths: NDArray[np.integer], first_sequence: int) -> NDArray[np.bool_]:
        """Cut the lengthened sequences to ``seq_length``; see :class:`Strategy`."""
        keys = sequence_keys(self.seed, self.shard, np.arange(first_sequence, first_sequence + len(lengths)))
        if self.rates == "drawn":
            return self._drawn_places(keys)
        return self._lengthened(keys, self.seq_length).reshape(-1)

    def _lengthened(self, keys: Words, kept: int | None = None) -> NDArray[np.bool_]:
        """True at the real tokens among the first ``kept`` tokens (None: all) of the sequences before trimming.

        Shape ``[keys, kept]``, or ``[keys, seq_length + num_pauses]``.
        """
        length = self.seq_length + self.num_pauses
        if self.gaps == "repeat":
            is_pause = self.sampler.sample_rows(keys, length, self.num_pauses)
            return np.logical_not(is_pause[:, :kept])  # trimmed before it is copied
        followed = self.sampler.sample_rows(keys, self.seq_length, self.num_pauses)  # [keys, seq_length]
        # Each row has num_pauses more
        return _pauses_after(followed.reshape(-1)).reshape(len(keys), length)[:, :kept]

    def _drawn_places(self, keys: Words) -> NDArray[np.bool_]:
        """The places of :meth:`real_places` if each sequence has its own number of pauses."""
        counts = draw_numbers(keys, self.num_pauses)
        lengths = self.seq_length + counts  # before trimming, [keys]
        starts = np.cumsum(lengths) - lengths
        if self.gaps == "repeat":
            is_real = ~self.sampler.sample_spans(keys, starts, lengths, counts, int(lengths.sum()))
        else:
            slots = np.full(len(keys), self.seq_length)
            firsts = np.arange(len(keys)) * self.seq_length
            is_real = _pauses_after(self.sampler.sample_spans(keys, firsts, slots, counts, int(slots.sum())))
        places: NDArray[np.bool_] = is_real[starts[:, None] + np.arange(self.seq_length)].reshape(-1)
        return places


@dataclass(frozen=True)
class DocumentPauses:
    """``--pauses document``: pauses inside each document, which is stored complete with its end-of-document token.

    Megatron-core packs the documents into sequences when it reads them.
    A document of ``n`` tokens gets ``floor(pause_rate * n + 0.5)`` pauses, each after one of its tokens: never before
    the first token, possibly directly before the end-of-document token.

    - ``gaps="repeat"``: the pauses take a uniform sample of the positions after the first token of the longer document.
    - ``gaps="distinct"``: the pauses follow a uniform sample of the tokens, one each.

    No text is lost. At a rate of 0.1, pauses are 9.09 % of the stored tokens. Documents end at ``eod_id``, to which no
    text is encoded. With ``rates="drawn"`` each document has a rate drawn from 0 to ``2 * pause_rate``.
    """

    pause_rate: float
    pause_id: int
    eod_id: int
    seed: int
    shard: int
    gaps: Gaps = "repeat"
    rates: Rates = "fixed"
    sampler: Sampler = sampling

    def pack(self, stream: NDArray[np.integer], first_sequence: int) -> Packed:
        """Put pauses into the documents that end in ``stream``; see :class:`Strategy`."""
        ends = np.flatnonzero(stream == self.eod_id)
        consumed = int(ends[-1]) + 1 if len(ends) else 0
        text_lengths = np.diff(ends, prepend=-1) - 1  # without the end-of-document token
        is_real = self._real_places(text_lengths, first_sequence)
        tokens = np.full((1, len(is_real)), self.pause_id, dtype=stream.dtype)
        filled = self.sampler.fill_rows(tokens, is_real[None], stream[:consumed])
        assert filled == (1, consumed), (filled, consumed)
        rates = self._rates_of(len(text_lengths), first_sequence)
        lengths = text_lengths + pauses_per_document(rates, text_lengths) + 1
        return Packed(tokens[0], lengths.astype(np.int32), consumed)

    def real_places(self, lengths: NDArray[np.integer], first_sequence: int) -> NDArray[np.bool_]:
        """Derive the text of each document from its stored length; see :class:`Strategy`."""
        text_lengths = self.text_lengths(lengths, first_sequence)
        assert (text_lengths >= 0).all(), "no document has this length with its pauses"
        return self._real_places(text_lengths, first_sequence)

    def text_lengths(self, lengths: NDArray[np.integer], first_sequence: int) -> NDArray[np.int64]:
        """Return the tokens of text of consecutive documents of these stored ``lengths``; see :func:`text_lengths_of`.

        ``first_sequence`` is the index in its shard of the first of them.
        """
        return text_lengths_of(self._rates_of(len(lengths), first_sequence), lengths)

    def _rates_of(self, count: int, first_sequence: int) -> float | NDArray[np.float64]:
        if self.rates == "fixed":
            return self.pause_rate
        return draw_rates(self._keys(count, first_sequence), self.pause_rate)

    def _keys(self, count: int, first_sequence: int) -> Words:
        return sequence_keys(self.seed, self.shard, np.arange(first_sequence, first_sequence + count))

    def _real_places(self, text_lengths: NDArray[np.int64], first_sequence: int) -> NDArray[np.bool_]:
        counts = pauses_per_document(self._rates_of(len(text_lengths), first_sequence), text_lengths)
        lengths = text_lengths + counts + 1
        keys = self._keys(len(lengths), first_sequence)
        if self.gaps == "repeat":
            # Spans of the output: each document without its first token and its end-of-document token
            starts = np.cumsum(lengths) - lengths + 1
            is_pause = self.sampler.sample_spans(keys, starts, lengths - 2, counts, int(lengths.sum()))
            return np.logical_not(is_pause, out=is_pause)
        # Spans of the stream: each document's text
        starts = np.cumsum(text_lengths + 1) - text_lengths - 1
        total = int((text_lengths + 1).sum())
        return _pauses_after(self.sampler.sample_spans(keys, starts, text_lengths, counts, total))


def _pauses_after(followed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True at real tokens, False at pauses, when a pause is put after each ``followed`` token.

    ``followed``: shape ``[tokens]``. Returns shape ``[tokens + followed.sum()]``.
    """
    before = np.flatnonzero(followed)
    is_real = np.ones(len(followed) + len(before), dtype=bool)
    is_real[before + np.arange(1, len(before) + 1)] = False  # pause k comes k pauses after before[k] + 1
    return is_real
