from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pause_megatron.pauses import insertion
from pause_megatron.pauses.counter_hash import draws_below, sequence_keys
from pause_megatron.pauses.insertion import NoPauses, SequencePauses, pauses_per_sequence

PAUSE = 2


def stream_of(tokens, dtype=np.uint16):
    """Distinct neighbours, none of them a pause."""
    return (np.arange(tokens) % 60_000 + 3).astype(dtype)


@st.composite
def strategies(draw):
    seq_length = draw(st.integers(2, 40))
    return SequencePauses(
        seq_length=seq_length,
        num_pauses=draw(st.integers(1, seq_length - 1)),
        pause_id=PAUSE,
        seed=draw(st.integers(0, 2**64)),
        shard=draw(st.integers(0, 2000)),
        trimmed=draw(st.sampled_from(["carry", "drop"])),
    )


def positions_one_by_one(strategy, sequence):
    """The definition: draw positions one after the other and pass over those already taken."""
    length = strategy.seq_length + strategy.num_pauses
    key = sequence_keys(strategy.seed, strategy.shard, np.array([sequence]))
    taken, counter = [], 0
    while len(taken) < strategy.num_pauses:
        position = int(draws_below(length, key, np.array([counter]))[0])
        counter += 1
        if position not in taken:
            taken.append(position)
    return set(taken)


@given(strategies(), st.integers(0, 500), st.integers(0, 100))
def test_sequences_are_those_of_the_definition(strategy, tokens, first_sequence):
    stream, cursor, expected = stream_of(tokens).tolist(), 0, []
    while True:
        pauses = positions_one_by_one(strategy, first_sequence + len(expected))
        kept = strategy.seq_length - sum(position < strategy.seq_length for position in pauses)
        needed = kept if strategy.trimmed == "carry" else strategy.seq_length
        if cursor + needed > tokens:
            break
        real = iter(stream[cursor : cursor + kept])
        expected.append([PAUSE if i in pauses else next(real) for i in range(strategy.seq_length)])
        cursor += needed
    packed = strategy.pack(stream_of(tokens), first_sequence)
    assert packed.sequences.tolist() == expected
    assert packed.consumed == cursor
    assert packed.pauses == sum(row.count(PAUSE) for row in expected)


@given(strategies(), st.integers(0, 3000))
def test_without_its_pauses_the_output_is_the_stream(strategy, tokens):
    stream = stream_of(tokens)
    packed = strategy.pack(stream, 0)
    real = [row[row != PAUSE] for row in packed.sequences]
    if strategy.trimmed == "carry":
        np.testing.assert_array_equal(np.concatenate([stream[:0], *real]), stream[: packed.consumed])
    else:
        for i, row in enumerate(real):
            start = i * strategy.seq_length
            np.testing.assert_array_equal(row, stream[start : start + len(row)])
    assert len(stream) - packed.consumed < strategy.seq_length


@given(strategies() | st.builds(NoPauses, st.integers(1, 40)), st.lists(st.integers(0, 300), max_size=12))
def test_result_does_not_depend_on_how_the_stream_is_cut(strategy, cuts):
    stream = stream_of(sum(cuts))
    whole = strategy.pack(stream, 0)
    parts, pending, pauses = [whole.sequences[:0]], stream[:0], 0
    for block in np.split(stream, np.cumsum(cuts)):
        pending = np.concatenate([pending, block])
        packed = strategy.pack(pending, sum(map(len, parts)))
        parts.append(packed.sequences)
        pauses += packed.pauses
        pending = pending[packed.consumed :]
    np.testing.assert_array_equal(np.concatenate(parts), whole.sequences)
    assert len(pending) == len(stream) - whole.consumed
    assert pauses == whole.pauses


@pytest.mark.parametrize("at_once", [1, 7])
def test_result_does_not_depend_on_the_sequences_made_at_once(monkeypatch, at_once):
    strategy = SequencePauses(64, 6, PAUSE, seed=1, shard=2)
    expected = strategy.pack(stream_of(20_000), 0)
    monkeypatch.setattr(insertion, "_SEQUENCES_AT_ONCE", at_once)
    found = strategy.pack(stream_of(20_000), 0)
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    assert (found.consumed, found.pauses) == (expected.consumed, expected.pauses)


def test_dtype_is_that_of_the_stream():
    for dtype in (np.uint16, np.int32):
        assert SequencePauses(64, 6, PAUSE, seed=1, shard=2).pack(stream_of(500, dtype), 0).sequences.dtype == dtype


def test_every_lengthened_sequence_has_exactly_its_pauses():
    strategy = SequencePauses(2048, 204, PAUSE, seed=1234, shard=0)
    mask = strategy._pause_mask(sequence_keys(1234, 0, np.arange(300)))
    assert (mask.sum(axis=1) == 204).all()
    assert not mask[:, 2048 + 204 :].any()


def test_positions_are_uniform():
    strategy = SequencePauses(200, 20, PAUSE, seed=1234, shard=0)
    mask = strategy._pause_mask(sequence_keys(1234, 0, np.arange(50_000)))[:, :220]
    expected = 50_000 * 20 / 220
    # Without replacement a slot's count has this variance, and the counts add up to a constant.
    variance = expected * (1 - 20 / 220) * 220 / 219
    chi_square = np.sum((mask.sum(axis=0) - expected) ** 2) / variance
    assert 150 < chi_square < 300  # 219 degrees of freedom: mean 219, standard deviation 21


def test_every_arrangement_is_equally_likely():
    strategy = SequencePauses(3, 2, PAUSE, seed=7, shard=0)
    mask = strategy._pause_mask(sequence_keys(7, 0, np.arange(100_000)))
    counts = Counter(tuple(np.flatnonzero(row)) for row in mask)
    assert set(counts) == set(combinations(range(5), 2))
    chi_square = sum((count - 10_000) ** 2 / 10_000 for count in counts.values())
    assert chi_square < 28  # 9 degrees of freedom: exceeded once in a thousand


def test_papers_numbers():
    assert pauses_per_sequence(0.1, 2048) == 204
    assert pauses_per_sequence(0.29, 100) == 29
    packed = SequencePauses(2048, 204, PAUSE, seed=1234, shard=0).pack(stream_of(2_000_000), 0)
    assert packed.pauses / len(packed.sequences) == pytest.approx(204 * 2048 / 2252, abs=0.5)
    assert packed.pauses == np.count_nonzero(packed.sequences == PAUSE)
