import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pause_megatron.errors import UserError
from pause_megatron.pauses.loss_mask import loss_mask, pause_runs
from pause_megatron.pauses.pause_ids import cycled, ids_of_filler, ids_of_run, is_pause, number_pauses
from pause_megatron.pauses.prompts import Interleaving, pause_prefix

IDS = range(3, 6)
"""Ids of three distinct pauses."""


def numbered_by_hand(pauses: list[bool], lengths: list[int]) -> list[int]:
    """Id of each token: 50 for a real one, else that of its place in its run."""
    found, position = [], 0
    for length in lengths:
        run = 0
        for pause in pauses[position : position + length]:
            run = run + 1 if pause else 0
            found.append(min(2 + run, 5) if pause else 50)
        position += length
    return found


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2**9 - 1)), max_size=6))
def test_each_pause_has_the_id_of_its_place_in_its_run(sequences):
    lengths = [length for length, _ in sequences]
    pauses = [bool(bits >> place & 1) for length, bits in sequences for place in range(length)]
    tokens = np.where(pauses, 3, 50).astype(np.uint16)
    number_pauses(tokens, np.array(pauses, dtype=bool), np.array(lengths, dtype=np.int32), IDS)
    assert tokens.tolist() == numbered_by_hand(pauses, lengths)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_every_distinct_pause_is_a_pause_without_loss(kind):
    tokens = kind([2, 3, 4, 5, 6, 5])
    assert is_pause(tokens, IDS).tolist() == [False, True, True, True, False, True]
    assert loss_mask(tokens, IDS).tolist() == [True, False, False, False, True, False]
    assert (
        is_pause(tokens, range(5, 6)).tolist()
        == is_pause(tokens, 5).tolist()
        == [False, False, False, True, False, True]
    )


def test_runs_count_all_distinct_pauses():
    assert pause_runs(torch.tensor([[9, 3, 4, 5, 5, 9, 3]]), IDS).tolist() == [[0, 1, 2, 3, 4, 0, 1]]


def test_pauses_of_a_prompt_are_numbered_from_the_first():
    assert ids_of_run(IDS, 5).tolist() == [3, 4, 5, 5, 5]
    assert pause_prefix([20, 21], 4, pause_ids=IDS, eod_id=1, room=9).tolist() == [20, 21, 3, 4, 5, 5]
    assert Interleaving(2, 1, IDS).insert([20, 21]).tolist() == [20, 3, 4, 21, 3, 4]
    assert Interleaving(2, 2, IDS).insert([20, 21, 22], ends_text=True).tolist() == [20, 21, 3, 4, 22]


def test_a_filler_starts_anew_at_its_end_and_in_each_run():
    assert cycled([7, 8, 9], 5) == (7, 8, 9, 7, 8)
    assert cycled([7, 8, 9], 2) == (7, 8)
    assert cycled([7], 3) == (7, 7, 7)


def test_a_filler_is_a_text_or_the_id_of_a_token():
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    assert ids_of_filler("...", encode, 512) == (46, 46, 46)
    assert ids_of_filler("17", encode, 512) == (17,)
    assert ids_of_filler("7", encode, 512) == (55,)
    assert ids_of_filler("512", encode, 512) == (53, 49, 50)
    with pytest.raises(UserError, match="--filler '': has no token; give another text"):
        ids_of_filler("", encode, 512)
