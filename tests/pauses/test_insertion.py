import math
from collections import Counter
from itertools import combinations, combinations_with_replacement, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pause_megatron.pauses import insertion, sampling
from pause_megatron.pauses.counter_hash import draws_below, sequence_keys
from pause_megatron.pauses.insertion import (
    DocumentPauses,
    EveryTokenPauses,
    NoPauses,
    SequencePauses,
    pauses_per_document,
)
from pause_megatron.pauses.pause_counts import pause_fraction, pauses_per_sequence, text_lengths_of

EOD, PAUSE = 1, 2
GAPS = ["repeat", "distinct"]
RATES = ["fixed", "drawn"]
try:
    from pause_megatron.pauses import sampling_loops
except ImportError:
    SAMPLERS = [sampling]
else:
    SAMPLERS = [sampling, sampling_loops]


def stream_of(tokens, dtype=np.uint16):
    """Real tokens; neighbours differ."""
    return (np.arange(tokens) % 60_000 + 3).astype(dtype)


def documents_of(lengths, dtype=np.uint16):
    """A stream of documents of these lengths, each followed by an end-of-document token."""
    tokens = iter(stream_of(sum(lengths)).tolist())
    return np.array([i for length in lengths for i in [*(next(tokens) for _ in range(length)), EOD]], dtype=dtype)


@st.composite
def sequence_strategies(draw):
    seq_length, rates = draw(st.integers(3, 40)), draw(st.sampled_from(RATES))
    return SequencePauses(
        seq_length=seq_length,
        num_pauses=draw(st.integers(1, (seq_length - 1) // (2 if rates == "drawn" else 1))),
        pause_id=PAUSE,
        seed=draw(st.integers(0, 2**64)),
        shard=draw(st.integers(0, 2000)),
        trimmed=draw(st.sampled_from(["carry", "drop"])),
        gaps=draw(st.sampled_from(GAPS)),
        rates=rates,
        sampler=draw(st.sampled_from(SAMPLERS)),
    )


@st.composite
def every_strategies(draw):
    pauses_per_token, interval = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    seq_length = draw(st.integers(1, 8)) * (interval + pauses_per_token)
    return EveryTokenPauses(seq_length, pauses_per_token, PAUSE, interval)


document_strategies = st.builds(
    DocumentPauses,
    pause_rate=st.floats(0.01, 0.49),
    pause_id=st.just(PAUSE),
    eod_id=st.just(EOD),
    seed=st.integers(0, 2**64),
    shard=st.integers(0, 2000),
    gaps=st.sampled_from(GAPS),
    rates=st.sampled_from(RATES),
    sampler=st.sampled_from(SAMPLERS),
)
fixed_length_strategies = sequence_strategies() | every_strategies() | st.builds(NoPauses, st.integers(1, 40))
any_strategy = fixed_length_strategies | document_strategies
document_lengths = st.lists(st.integers(1, 60), max_size=30)


def rows_of(packed):
    """The packed sequences as lists."""
    return [row.tolist() for row in np.split(packed.tokens, np.cumsum(packed.lengths))[:-1]]


def taken_one_by_one(strategy, sequence, slots, count):
    """A sample by definition: draws slots one after the other and ignores slots already taken."""
    key = sequence_keys(strategy.seed, strategy.shard, np.array([sequence]))
    taken, counter = set(), 0
    while len(taken) < count:
        taken.add(int(draws_below(slots, key, np.array([counter]))[0]))
        counter += 1
    return taken


def drawn(strategy, sequence, bound):
    """The number that ``rates="drawn"`` draws below ``bound``, for one sequence."""
    key = sequence_keys(strategy.seed, strategy.shard, np.array([sequence]))
    return int(draws_below(bound, key, np.array([-1]))[0])


def number_of(strategy, sequence):
    """Pauses of one sequence before it is trimmed."""
    is_drawn = strategy.rates == "drawn"
    return drawn(strategy, sequence, 2 * strategy.num_pauses + 1) if is_drawn else strategy.num_pauses


def rate_of(strategy, document):
    """Pause rate of one document."""
    is_drawn = strategy.rates == "drawn"
    return drawn(strategy, document, 2**31) * (2 * strategy.pause_rate / 2**31) if is_drawn else strategy.pause_rate


def lengthened(strategy, sequence, tokens, num_pauses, first_slot):
    """``tokens`` with pauses inserted one at a time, by the definition of ``strategy``."""
    if strategy.gaps == "repeat":
        length = len(tokens) + num_pauses
        pauses = taken_one_by_one(strategy, sequence, length - first_slot, num_pauses)
        real = iter(tokens)
        return [PAUSE if i - first_slot in pauses else next(real) for i in range(length)]
    followed = taken_one_by_one(strategy, sequence, len(tokens), num_pauses)
    return [i for gap, token in enumerate(tokens) for i in ([token, PAUSE] if gap in followed else [token])]


@given(sequence_strategies(), st.integers(0, 500), st.integers(0, 100))
def test_sequences_equal_a_naive_implementation(strategy, tokens, first_sequence):
    stream, cursor, expected = stream_of(tokens).tolist(), 0, []
    filler = [0] * strategy.seq_length  # what is trimmed may lie behind the stream's end
    while True:
        text = (stream[cursor:] + filler)[: strategy.seq_length]
        sequence = first_sequence + len(expected)
        row = lengthened(strategy, sequence, text, number_of(strategy, sequence), 0)[: strategy.seq_length]
        kept = strategy.seq_length - row.count(PAUSE)
        needed = kept if strategy.trimmed == "carry" else strategy.seq_length
        if cursor + needed > tokens:
            break
        expected.append(row)
        cursor += needed
    packed = strategy.pack(stream_of(tokens), first_sequence)
    assert rows_of(packed) == expected
    assert packed.consumed == cursor


@given(document_strategies, document_lengths, st.integers(0, 100), st.integers(0, 9))
def test_documents_equal_a_naive_implementation(strategy, lengths, first_document, begun):
    stream = np.append(documents_of(lengths), stream_of(begun))
    packed = strategy.pack(stream, first_document)
    documents = [row.tolist() for row in np.split(documents_of(lengths), np.cumsum(np.array(lengths, int) + 1))[:-1]]
    rates = [rate_of(strategy, first_document + index) for index in range(len(lengths))]
    counts = [math.floor(round(rate * length, 6) + 0.5) for rate, length in zip(rates, lengths, strict=True)]
    assert rows_of(packed) == [
        [*lengthened(strategy, first_document + index, document[:-1], count, 1), EOD]
        for index, (document, count) in enumerate(zip(documents, counts, strict=True))
    ]
    assert packed.consumed == len(stream) - begun


@given(any_strategy, document_lengths)
def test_output_without_pauses_is_the_stream(strategy, lengths):
    stream = documents_of(lengths)
    packed = strategy.pack(stream, 0)
    if getattr(strategy, "trimmed", "carry") == "carry":
        np.testing.assert_array_equal(packed.tokens[packed.tokens != PAUSE], stream[: packed.consumed])
    else:
        for i, row in enumerate(rows_of(packed)):
            real = [token for token in row if token != PAUSE]
            start = i * strategy.seq_length
            assert real == stream[start : start + len(real)].tolist()


@given(any_strategy, document_lengths, st.integers(0, 100))
def test_real_places_are_those_where_pack_puts_the_text(strategy, lengths, first_sequence):
    packed = strategy.pack(documents_of(lengths), first_sequence)
    is_real = strategy.real_places(packed.lengths, first_sequence)
    np.testing.assert_array_equal(is_real, packed.tokens != PAUSE)


@given(st.floats(1e-7, 0.99), st.integers(0, 10**7))
def test_text_lengths_are_derived_from_stored_lengths(rate, first):
    texts = np.arange(first, first + 500)
    stored = texts + pauses_per_document(rate, texts) + 1
    np.testing.assert_array_equal(text_lengths_of(rate, stored), texts)
    impossible = np.setdiff1d(np.arange(stored[0], stored[-1]), stored)
    assert (text_lengths_of(rate, impossible) == -1).all()


def test_very_long_documents_are_drawn_as_short_ones(monkeypatch):
    text = documents_of([3000, 5, 4000])
    for gaps in GAPS:
        strategy = DocumentPauses(pause_rate=0.3, pause_id=PAUSE, eod_id=EOD, seed=7, shard=3, gaps=gaps)
        expected = strategy.pack(text, 11)
        monkeypatch.setattr(sampling, "_DRAWS_AT_ONCE", 100)
        monkeypatch.setattr(sampling, "_LARGE_MASK", 100)
        as_if_long = strategy.pack(text, 11)
        monkeypatch.undo()
        np.testing.assert_array_equal(expected.tokens, as_if_long.tokens)


@given(fixed_length_strategies, st.integers(0, 3000))
def test_every_sequence_has_its_length_and_few_tokens_are_left(strategy, tokens):
    packed = strategy.pack(stream_of(tokens), 0)
    assert (packed.lengths == strategy.seq_length).all()
    assert len(packed.tokens) == packed.lengths.sum()
    assert tokens - packed.consumed < strategy.seq_length


@given(document_strategies, document_lengths)
def test_pauses_are_inside_documents_and_counted_exactly(strategy, lengths):
    rows = rows_of(strategy.pack(documents_of(lengths), 0))
    for document, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        assert row[0] != PAUSE
        assert row[-1] == EOD
        assert row.count(PAUSE) == len(row) - length - 1
        assert row.count(PAUSE) == math.floor(round(rate_of(strategy, document) * length, 6) + 0.5)


@given(every_strategies(), st.integers(0, 500))
def test_every_token_is_followed_by_exactly_its_pauses(strategy, tokens):
    packed = strategy.pack(stream_of(tokens), 0)
    interval = strategy.interval
    groups = packed.tokens.reshape(-1, interval + strategy.pauses_per_token)
    np.testing.assert_array_equal(groups[:, :interval].ravel(), stream_of(tokens)[: packed.consumed])
    assert (groups[:, interval:] == PAUSE).all()


def test_pauses_after_every_second_token_are_those_written_by_hand():
    strategy = EveryTokenPauses(seq_length=10, pauses_per_token=3, pause_id=PAUSE, interval=2)
    packed = strategy.pack(np.array([10, 11, 12, 13, 14, 15, 16]), 0)
    assert rows_of(packed) == [[10, 11, PAUSE, PAUSE, PAUSE, 12, 13, PAUSE, PAUSE, PAUSE]]
    assert packed.consumed == 4
    assert strategy.real_places(packed.lengths, 0).tolist() == [True, True, False, False, False] * 2


@given(sequence_strategies() | document_strategies, document_lengths)
def test_distinct_gaps_hold_one_pause_each(strategy, lengths):
    packed = strategy.pack(documents_of(lengths), 0)
    for row in rows_of(packed):
        together = any(a == b == PAUSE for a, b in pairwise(row))
        if strategy.gaps == "distinct":
            assert not together
            assert row[0] != PAUSE


@given(any_strategy, st.lists(st.lists(st.integers(1, 60), max_size=6), max_size=8))
def test_result_does_not_depend_on_how_the_stream_is_divided_into_calls(strategy, blocks):
    stream = documents_of([length for block in blocks for length in block])
    whole = strategy.pack(stream, 0)
    pending, tokens, sequences = stream[:0], [stream[:0]], 0
    for block in np.split(stream, np.cumsum([sum(block) for block in blocks])):  # within documents, too
        pending = np.concatenate([pending, block])
        packed = strategy.pack(pending, sequences)
        tokens.append(packed.tokens)
        sequences += len(packed.lengths)
        pending = pending[packed.consumed :]
    np.testing.assert_array_equal(np.concatenate(tokens), whole.tokens)
    assert sequences == len(whole.lengths)
    assert len(pending) == len(stream) - whole.consumed


@pytest.mark.parametrize("at_once", [1, 7])
@pytest.mark.parametrize("gaps", GAPS)
def test_result_does_not_depend_on_the_sequences_made_at_once(monkeypatch, at_once, gaps):
    strategy = SequencePauses(64, 6, PAUSE, seed=1, shard=2, gaps=gaps)
    expected = strategy.pack(stream_of(20_000), 0)
    monkeypatch.setattr(insertion, "_SEQUENCES_AT_ONCE", at_once)
    found = strategy.pack(stream_of(20_000), 0)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    assert found.consumed == expected.consumed


@given(any_strategy)
def test_dtype_is_that_of_the_stream(strategy):
    for dtype in (np.uint16, np.int32):
        assert strategy.pack(documents_of([50], dtype), 0).tokens.dtype == dtype


@pytest.mark.parametrize("gaps", GAPS)
def test_every_lengthened_sequence_has_exactly_its_pauses(gaps):
    strategy = SequencePauses(2048, 204, PAUSE, seed=1234, shard=0, gaps=gaps)
    is_real = strategy._lengthened(sequence_keys(1234, 0, np.arange(300)))
    assert is_real.shape == (300, 2252)
    assert (is_real.sum(axis=1) == 2048).all()


def chi_square_of_samples(counts, samples, drawn):
    """Chi-square statistic of slot counts in ``samples`` samples of ``drawn`` slots each, without replacement."""
    slots = len(counts)
    expected = samples * drawn / slots
    # Without replacement a slot's count has this variance, and the counts add up to a constant.
    variance = expected * (1 - drawn / slots) * slots / (slots - 1)
    return np.sum((counts - expected) ** 2) / variance


def test_positions_in_sequences_are_uniform():
    strategy = SequencePauses(200, 20, PAUSE, seed=1234, shard=0)
    pauses = ~strategy._lengthened(sequence_keys(1234, 0, np.arange(50_000)))
    assert 150 < chi_square_of_samples(pauses.sum(axis=0), 50_000, 20) < 300  # 219 degrees of freedom


def test_distinct_gaps_in_sequences_are_uniform():
    strategy = SequencePauses(200, 20, PAUSE, seed=1234, shard=0, gaps="distinct")
    is_real = strategy._lengthened(sequence_keys(1234, 0, np.arange(50_000)))
    rows, positions = np.nonzero(~is_real)
    gap = positions - np.tile(np.arange(1, 21), 50_000)  # the j-th pause follows real token position - j
    assert 140 < chi_square_of_samples(np.bincount(gap, minlength=200), 50_000, 20) < 270  # 199
    assert rows.tolist() == np.repeat(np.arange(50_000), 20).tolist()


@pytest.mark.parametrize("gaps", GAPS)
def test_positions_in_documents_are_uniform(gaps):
    strategy = DocumentPauses(0.1, PAUSE, EOD, seed=1234, shard=0, gaps=gaps)
    packed = strategy.pack(np.tile(documents_of([100]), 20_000), 0)
    positions = np.nonzero(packed.tokens.reshape(20_000, 111) == PAUSE)[1]
    if gaps == "distinct":
        positions = positions - np.tile(np.arange(1, 11), 20_000)
        counts = np.bincount(positions, minlength=100)
    else:
        counts = np.bincount(positions, minlength=110)[1:]
    assert 60 < chi_square_of_samples(counts, 20_000, 10) < 170  # 99 and 108 degrees of freedom


@pytest.mark.parametrize("gaps", GAPS)
def test_every_arrangement_is_equally_likely(gaps):
    sequences = SequencePauses(3, 2, PAUSE, seed=7, shard=0, gaps=gaps)
    is_real = sequences._lengthened(sequence_keys(7, 0, np.arange(100_000)))
    documents = DocumentPauses(0.5, PAUSE, EOD, seed=7, shard=0, gaps=gaps)  # 2 pauses in 4 tokens
    rows = documents.pack(np.tile(documents_of([4]), 100_000), 0).tokens.reshape(-1, 7)
    arrangements = {
        "repeat": (len(list(combinations(range(5), 2))), len(list(combinations_with_replacement(range(4), 2)))),
        "distinct": (len(list(combinations(range(3), 2))), len(list(combinations(range(4), 2)))),
    }[gaps]
    for found, number in zip((~is_real, rows == PAUSE), arrangements, strict=True):
        counts = Counter(tuple(np.flatnonzero(row)) for row in found)
        assert len(counts) == number
        expected = 100_000 / number
        chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_square < 28  # at most 9 degrees of freedom: exceeded once in a thousand


def test_a_sequence_may_start_with_a_pause_only_where_gaps_repeat():
    starts = {}
    for gaps in GAPS:
        packed = SequencePauses(64, 6, PAUSE, seed=1, shard=2, gaps=gaps).pack(stream_of(200_000), 0)
        starts[gaps] = np.count_nonzero(packed.tokens.reshape(-1, 64)[:, 0] == PAUSE)
    assert starts["distinct"] == 0 < starts["repeat"]


@pytest.mark.parametrize("gaps", GAPS)
def test_drawn_rates_are_uniform_around_the_mean(gaps):
    sequences = SequencePauses(256, 25, PAUSE, seed=1234, shard=0, gaps=gaps, rates="drawn")
    packed = sequences.pack(stream_of(1_000_000), 0)
    share = float((packed.tokens == PAUSE).mean())
    assert share == pytest.approx(pause_fraction(25, 256, "drawn"), rel=0.02)
    in_each = (packed.tokens.reshape(-1, 256) == PAUSE).sum(axis=1)
    assert in_each.min() == 0 and in_each.max() > 40  # noqa: PT018
    documents = DocumentPauses(0.1, PAUSE, EOD, seed=1234, shard=0, gaps=gaps, rates="drawn")
    packed = documents.pack(documents_of([100] * 4000), 0)
    counts = packed.lengths - 101
    assert np.bincount(counts, minlength=21)[1:20] == pytest.approx(200, rel=0.3)  # 0 and 20 are rounded from half
    assert counts.mean() == pytest.approx(10, rel=0.03)


def test_fixed_rates_keep_their_share():
    assert pause_fraction(204, 2048, "fixed") == 204 / 2252


def test_pause_share_at_the_papers_settings():
    assert pauses_per_sequence(0.1, 2048) == 204
    assert pauses_per_sequence(0.29, 100) == 29
    for gaps in GAPS:
        packed = SequencePauses(2048, 204, PAUSE, seed=1234, shard=0, gaps=gaps).pack(stream_of(2_000_000), 0)
        pauses = np.count_nonzero(packed.tokens == PAUSE)
        assert pauses / len(packed.lengths) == pytest.approx(204 * 2048 / 2252, abs=0.6)


def test_number_of_pauses_is_rounded_half_up():
    lengths = np.array([1, 4, 5, 15, 24, 25, 100])
    assert pauses_per_document(0.1, lengths).tolist() == [0, 0, 1, 2, 2, 3, 10]
    assert pauses_per_document(0.29, np.array([50])).tolist() == [15]  # 14.5, which is 14.499… in binary
