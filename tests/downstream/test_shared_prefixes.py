"""Answers that share the reading of a prompt, compared with reading every row by itself."""

from dataclasses import replace

import pytest
from lm_eval.api.instance import Instance

from pause_megatron.downstream import harness_model, shared_requests
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.shared_prefixes import Branch, shared_prefixes
from pause_megatron.downstream.shared_requests import AnswersAhead
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import pause_prefix
from tests.downstream.answers import (
    CHOICES,
    CONTEXTS,
    LONG,
    NUMBERS,
    alone,
    assert_same_scores,
    pausings_of,
    scores,
    texts,
)
from tests.downstream.random_models import CONTEXT_LENGTH

SETTINGS = {
    "appended": {},
    "both directions": {"prefix_attention": "bidirectional"},
    "prepended": {"placement": "prepend"},
    "before a marker": {"placement": "before-marker", "marker": "is"},
    "after a marker": {"placement": "after-marker", "marker": "is"},
    "a filler": {"filler": "a b c", "filler_ids": (40, 41, 42)},
    "repeated tokens": {"repeats_tokens": True},
    "after every token": {"placement": "every", "interval": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_all_numbers_together_give_the_answers_of_each_row_by_itself(folder, name):
    pausings = pausings_of(SETTINGS[name])
    ahead = AnswersAhead(folder, pausings)
    assert ahead.shares
    for pausing in pausings:
        together, by_itself = PauseLM(folder, pausing, 3, ahead), alone(folder, pausing, 3)
        assert_same_scores(scores(together), scores(by_itself))
        assert texts(together) == texts(by_itself)
    assert not ahead._found


@pytest.mark.parametrize("repeats_tokens", [False, True])
def test_pauses_that_share_positions_give_the_answers_of_each_row_by_itself(model_path, repeats_tokens):
    folder = load_model_folder(model_path("gpt2"))
    folder.model.config.pause_positions = "shared"
    assert folder.shares_positions
    pausings = pausings_of({"repeats_tokens": repeats_tokens})
    ahead = AnswersAhead(folder, pausings)
    for pausing in pausings:
        together, by_itself = PauseLM(folder, pausing, 3, ahead), alone(folder, pausing, 3)
        assert_same_scores(scores(together), scores(by_itself))
        assert texts(together) == texts(by_itself)


@pytest.mark.parametrize("branches", [True, False])
def test_a_short_answer_at_the_end_of_the_context_is_scored_beside_a_longer_one(folder, branches, monkeypatch):
    if not branches:
        monkeypatch.setitem(vars(folder), "branching_problem", "no masks")
    longer = " a class and more of it than the other answer has"
    pairs = [(context + "is", answer) for context in (LONG, "x ") for answer in (" y z", " z y")] + [("x is", longer)]
    pausings = pausings_of({})
    ahead = AnswersAhead(folder, pausings)
    row = harness_model._row(
        folder, pausings[0], (pairs[0], *alone(folder, pausings[0])._encode_pair(*pairs[0])), (0, 0)
    )
    assert len(row) == CONTEXT_LENGTH + 1  # the last token is predicted, and not read
    for pausing in pausings:
        assert_same_scores(scores(PauseLM(folder, pausing, 3, ahead), pairs), scores(alone(folder, pausing, 3), pairs))


def test_distinct_pauses_are_shared(folder):
    several = replace(folder, pause_id=50, distinct_pauses=3)
    pausings = pausings_of({})
    ahead = AnswersAhead(several, pausings)
    for pausing in pausings:
        together, by_itself = PauseLM(several, pausing, 3, ahead), alone(several, pausing, 3)
        assert_same_scores(scores(together), scores(by_itself))
        assert texts(together) == texts(by_itself)


def test_choices_and_numbers_of_pauses_read_their_context_once(folder, positions_read):
    pausings, pairs = pausings_of({}), CHOICES[:3]
    models = [PauseLM(folder, pausing, 8, ahead) for ahead in [AnswersAhead(folder, pausings)] for pausing in pausings]
    positions_read.clear()
    for model in models:
        scores(model, pairs)
    [context, *_] = {len(folder.encode(context)) for context, _ in pairs}
    answers = sum(len(models[0]._encode_pair(*pair)[1]) - 1 for pair in pairs)
    assert positions_read == [(1, context + max(NUMBERS)), (1, len(NUMBERS) * answers)]  # all answers are in one row


def test_all_numbers_of_pauses_are_decoded_in_the_same_steps(folder, positions_read):
    pausings = pausings_of({})
    models = [PauseLM(folder, pausing, 8, ahead) for ahead in [AnswersAhead(folder, pausings)] for pausing in pausings]
    positions_read.clear()
    for model in models:
        texts(model, CONTEXTS[:1], until=[])
    [prefix, *steps] = positions_read
    assert prefix == (1, len(folder.encode(CONTEXTS[0])) + max(NUMBERS))
    assert len(steps) <= 5
    assert set(steps) == {(1, len(NUMBERS))}


def test_a_batch_of_answers_is_bounded(folder, monkeypatch, positions_read):
    pausings = pausings_of({})
    expected = [(scores(alone(folder, each)), texts(alone(folder, each, 2))) for each in pausings]
    monkeypatch.setattr(shared_requests, "POSITIONS_AT_ONCE", 1)
    ahead = AnswersAhead(folder, pausings)
    positions_read.clear()
    for pausing, (expected_scores, expected_texts) in zip(pausings, expected, strict=True):
        model = PauseLM(folder, pausing, 2, ahead)
        assert_same_scores(scores(model), expected_scores)
        assert texts(model) == expected_texts
    assert max(rows for rows, _ in positions_read) == 2


def test_complete_texts_share_nothing_and_need_no_trial(folder):
    model = PauseLM(folder, Pausing(num_pauses=0), 2)
    assert len(model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("a class is",), 0)])) == 1
    assert "sharing_problem" not in vars(folder)
    scores(model, CHOICES[:2])
    assert "sharing_problem" in vars(folder)


def test_an_error_is_raised_when_its_number_comes(folder):
    pausings = [Pausing(num_pauses=2), Pausing(num_pauses=CONTEXT_LENGTH), Pausing(num_pauses=3)]
    ahead = AnswersAhead(folder, pausings)
    first, refused, last = (PauseLM(folder, pausing, 4, ahead) for pausing in pausings)
    for answers in (scores, texts):
        answers(first)
        with pytest.raises(UserError, match="no room for the prompt: 64 pauses"):
            answers(refused)
    assert_same_scores(scores(last), scores(alone(folder, pausings[2])))


def test_other_requests_are_answered_anew(folder):
    pausings = pausings_of({})
    ahead = AnswersAhead(folder, pausings)
    scores(PauseLM(folder, pausings[0], 4, ahead))
    model = PauseLM(folder, pausings[1], 4, ahead)
    assert_same_scores(scores(model, CHOICES[:2]), scores(alone(folder, pausings[1]), CHOICES[:2]))


def test_a_prefix_that_pauses_shorten_is_not_shared(folder):
    """The longer run leaves less room, so that its context begins later."""
    ids = list(range(10, 40))
    room = {"pause_ids": [2], "eod_id": 1, "room": 32}
    prefixes = [(pause_prefix(ids, number, **room), Branch((number, 0), number)) for number in (0, 2, 5)]
    found = shared_prefixes(prefixes)
    assert [[branch.kept for branch in shared.branches] for shared in found] == [[5], [2, 0]]
    assert [len(shared) for shared in found] == [32, 32]


def test_other_pauses_are_not_shared():
    room = {"eod_id": 1, "room": 32}
    prefixes = [
        (pause_prefix([10, 11], len(ids), pause_ids=ids, **room), Branch((0, row), len(ids)))
        for row, ids in enumerate([[2, 3, 4], [2, 3], [3]])
    ]
    assert [[branch.kept for branch in shared.branches] for shared in shared_prefixes(prefixes)] == [[3, 2], [1]]
