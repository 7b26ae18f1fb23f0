import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import (
    IGNORE_INDEX,
    Interleaving,
    PausedExample,
    insert_runs,
    marked_prefix,
    pause_prefix,
    split_after_marker,
    split_at_marker,
    without_pauses,
)

PAUSE, EOD = 2, 1


def prefix(context: list[int], num_pauses: int, room: int, at: int | None = None, start: int = 0) -> list[int]:
    return pause_prefix(context, num_pauses, pause_ids=[PAUSE], eod_id=EOD, room=room, at=at, start=start).tolist()


def pause_example(context: list[int], target: list[int], num_pauses: int, context_length: int) -> PausedExample:
    room = context_length - len(target)
    return PausedExample(
        pause_prefix(context, num_pauses, pause_ids=[PAUSE] if num_pauses else [], eod_id=EOD, room=room),
        without_pauses(target),
    )


def test_pauses_are_between_context_and_target_and_only_the_target_has_labels():
    example = pause_example([10, 11, 12], [20, 21], 2, context_length=16)
    assert example.input_ids.tolist() == [10, 11, 12, PAUSE, PAUSE, 20, 21]
    assert example.labels.tolist() == [IGNORE_INDEX] * 5 + [20, 21]
    assert len(example.prefix) == 5


def test_the_last_pause_predicts_the_first_target_token():
    example = pause_example([10], [20, 21], 3, context_length=16)
    first_labelled = int(np.flatnonzero(example.labels != IGNORE_INDEX)[0])
    assert example.input_ids[first_labelled - 1] == PAUSE
    assert example.labels[first_labelled] == 20


def test_without_pauses_the_last_context_token_predicts_the_first_target_token():
    example = pause_example([10, 11], [20], 0, context_length=16)
    assert example.input_ids.tolist() == [10, 11, 20]
    assert example.labels.tolist() == [IGNORE_INDEX, IGNORE_INDEX, 20]


def test_an_empty_context_becomes_one_end_of_document_token():
    assert prefix([], 0, room=4) == [EOD]
    assert prefix([], 2, room=4) == [EOD, PAUSE, PAUSE]


def test_a_one_token_context_is_kept_as_it_is():
    assert prefix([7], 3, room=4) == [7, PAUSE, PAUSE, PAUSE]


def test_truncation_takes_the_oldest_context_and_never_pauses_or_target():
    example = pause_example([10, 11, 12, 13], [20, 21, 22], 3, context_length=8)
    assert example.input_ids.tolist() == [12, 13, PAUSE, PAUSE, PAUSE, 20, 21, 22]


def test_a_context_that_just_fits_is_not_cut():
    assert prefix([10, 11], 3, room=5) == [10, 11, PAUSE, PAUSE, PAUSE]
    assert prefix([10, 11], 3, room=4) == [11, PAUSE, PAUSE, PAUSE]


def test_pauses_that_leave_no_room_for_the_context_are_refused():
    with pytest.raises(UserError, match="no room for the prompt: 4 pauses in the 4 positions"):
        prefix([10, 11], 4, room=4)
    with pytest.raises(UserError, match="2 pauses in the 1 positions"):
        pause_example([10], [20] * 7, 2, context_length=8)


def test_pauses_stand_before_the_token_they_are_put_at():
    assert prefix([10, 11, 12], 2, room=8, at=0) == [PAUSE, PAUSE, 10, 11, 12]
    assert prefix([10, 11, 12], 2, room=8, at=2) == [10, 11, PAUSE, PAUSE, 12]
    assert prefix([10, 11, 12], 2, room=8, at=3) == prefix([10, 11, 12], 2, room=8)
    assert prefix([10, 11, 12], 0, room=8, at=1) == [10, 11, 12]


def test_pauses_before_an_empty_context_come_before_its_end_of_document():
    assert prefix([], 2, room=4, at=0) == [PAUSE, PAUSE, EOD]


def test_truncation_keeps_pauses_before_the_same_token_until_it_is_dropped():
    assert prefix([10, 11, 12, 13], 1, room=4, at=2) == [11, PAUSE, 12, 13]
    assert prefix([10, 11, 12, 13], 1, room=3, at=2) == [PAUSE, 12, 13]
    assert prefix([10, 11, 12, 13], 1, room=2, at=2) == [PAUSE, 13]
    assert prefix([10, 11, 12, 13], 1, room=3, at=0) == [PAUSE, 12, 13]


def test_the_last_marker_splits_a_prompt():
    assert split_at_marker("Q: A: 1 A: 2", "A:") == ("Q: A: 1 ", "A: 2")
    assert split_at_marker("A:", "A:") == ("", "A:")
    with pytest.raises(UserError, match="--pause-marker 'B:': not in the prompt 'Q: A:'"):
        split_at_marker("Q: A:", "B:")


def test_a_beginning_of_text_stays_in_front_of_pauses_and_of_what_is_left_of_the_context():
    begun = [9, 10, 11, 12]
    assert prefix(begun, 2, room=8, start=1) == [9, 10, 11, 12, PAUSE, PAUSE]
    assert prefix(begun, 2, room=8, at=1, start=1) == [9, PAUSE, PAUSE, 10, 11, 12]
    assert prefix(begun, 2, room=4, start=1) == [9, 12, PAUSE, PAUSE]
    assert prefix(begun, 2, room=4, at=1, start=1) == [9, PAUSE, PAUSE, 12]
    assert prefix(begun, 1, room=4, at=3, start=1) == [9, 11, PAUSE, 12]
    assert prefix([9], 3, room=4, start=1) == [9, PAUSE, PAUSE, PAUSE]
    with pytest.raises(UserError, match="no room for the prompt: 3 pauses in the 4 positions"):
        prefix(begun, 3, room=4, start=1)


def interleaved_by_hand(tokens: list[int], num_pauses: int, interval: int, pause: int | None) -> list[tuple[int, bool]]:
    """Each token and whether it is a pause."""
    found: list[tuple[int, bool]] = []
    for number, token in enumerate(tokens, start=1):
        found.append((token, False))
        if number % interval == 0:
            found += [(token if pause is None else pause, True)] * num_pauses
    return found


@pytest.mark.parametrize("pause", [PAUSE, None])
@given(st.lists(st.integers(10, 99), max_size=20), st.integers(0, 4), st.integers(1, 4), st.integers(0, 20))
def test_a_text_with_pauses_is_its_parts_with_pauses(pause, tokens, num_pauses, interval, cut):
    interleaving = Interleaving(num_pauses, interval, None if pause is None else [pause])
    first, second = tokens[:cut], tokens[cut:]
    parts = [interleaving.insert(first), interleaving.insert(second, len(first))]
    joined = [pair for part in parts for pair in zip(part.tolist(), part.is_pause.tolist(), strict=True)]
    assert joined == interleaved_by_hand(tokens, num_pauses, interval, pause)
    assert [part.num_real for part in parts] == [len(first), len(second)]


def test_the_end_of_a_text_has_no_pauses():
    assert Interleaving(2, 1, [PAUSE]).insert([10, 11], ends_text=True).tolist() == [10, PAUSE, PAUSE, 11]
    assert Interleaving(2, 3, [PAUSE]).insert([10, 11], 1, ends_text=True).tolist() == [10, 11]


@given(st.integers(0, 60), st.integers(0, 4), st.integers(1, 4))
def test_no_further_token_fits(positions, num_pauses, interval):
    interleaving = Interleaving(num_pauses, interval, [PAUSE])
    most = interleaving.most_tokens(positions)
    assert len(interleaving.insert([10] * most)) <= positions < len(interleaving.insert([10] * (most + 1)))


def test_each_marker_ends_a_part_of_the_prompt():
    assert split_after_marker("One.\n\nTwo.\n\n\nThree.", "\n\n") == ["One.\n\n", "Two.\n\n", "\nThree."]
    assert split_after_marker("A: 1 A:", "A:") == ["A:", " 1 A:", ""]
    with pytest.raises(UserError, match="--pause-marker 'B:': not in the prompt 'Q: A:'"):
        split_after_marker("Q: A:", "B:")


def marked_by_hand(parts: list[list[int]], num_pauses: int, room: int, start: int, *, shared: bool) -> list[int]:
    """Drop the token at ``start`` until the prompt fits; pauses go with the token that they follow."""
    runs = [
        (token, place == len(part) - 1 and part is not parts[-1]) for part in parts for place, token in enumerate(part)
    ]

    def read(kept: list[tuple[int, bool]]) -> list[int]:
        return [each for token, ends_part in kept for each in [token, *([PAUSE] * num_pauses * ends_part)]]

    while len([token for token in read(runs) if not (shared and token == PAUSE)]) > room:
        runs.pop(start)
    return read(runs)


@given(
    st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=5), min_size=2, max_size=5),
    st.integers(0, 3),
    st.integers(0, 1),
    st.integers(5, 30),
    st.booleans(),
)
@example([[10], [10, 10]], 3, 1, 5, False)  # pauses after the first token, which is never dropped
def test_pauses_after_each_part_are_dropped_with_the_token_that_they_follow(parts, num_pauses, start, room, shared):
    settings = {"pause_ids": [PAUSE], "eod_id": EOD, "room": room, "start": start, "shares_positions": shared}
    found = marked_prefix(parts, num_pauses, **settings)
    assert found.tolist() == marked_by_hand(parts, num_pauses, room, start, shared=shared)
    assert found.is_pause.tolist() == [token == PAUSE for token in found.tolist()]


def test_the_last_marker_and_its_pauses_must_fit():
    settings = {"pause_ids": [PAUSE], "eod_id": EOD, "start": 1}
    assert marked_prefix([[9, 10], []], 2, room=4, **settings).tolist() == [9, 10, PAUSE, PAUSE]
    assert marked_prefix([[], []], 2, room=4, **settings).tolist() == [EOD, PAUSE, PAUSE]
    with pytest.raises(UserError, match="no room for the prompt: 2 pauses after each marker in the 3 positions"):
        marked_prefix([[9, 10], []], 2, room=3, **settings)


@given(st.lists(st.integers(10, 99), min_size=1, max_size=9), st.integers(0, 3), st.sets(st.integers(0, 9)))
def test_runs_before_any_tokens_repeat_the_token_before_them_or_hold_the_ids_of_a_run(tokens, num_pauses, places):
    at = sorted(place for place in places if place <= len(tokens))
    for pause_ids in ([PAUSE, PAUSE + 1], None):
        expected: list[tuple[int, bool]] = []
        for place in range(len(tokens) + 1):
            if place in at:
                before = tokens[max(0, place - 1)]
                run = [before] * num_pauses if pause_ids is None else [PAUSE, *[PAUSE + 1] * num_pauses][:num_pauses]
                expected += [(pause, True) for pause in run]
            expected += [(token, False) for token in tokens[place : place + 1]]
        found = insert_runs(np.array(tokens), at, num_pauses, pause_ids)
        assert list(zip(found.tolist(), found.is_pause.tolist(), strict=True)) == expected
