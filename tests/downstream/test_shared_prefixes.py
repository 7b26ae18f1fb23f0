"""Answers that share the reading of a prompt, compared with reading every row by itself."""

import copy
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from pause_megatron.downstream import harness_model, shared_requests
from pause_megatron.downstream.greedy_decoding import Answer, Ending, StopTexts, is_greedy
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.shared_prefixes import Branch, SharedPrefix, shared_prefixes
from pause_megatron.downstream.shared_requests import AnswersAhead, SharedReader
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import PausedTokens, pause_prefix, without_pauses
from tests.downstream.foreign_models import SHAPES, make_model
from tests.downstream.random_models import CONTEXT_LENGTH

LONG = "an expression that is much longer than all the positions this model has, " * 4
CHOICES = [
    ("The import statement is", " a name"),
    ("The import statement is", " binds a class and more"),
    ("The import statement is", " x"),
    ("a class is a", " y z"),
    ("a class is a", " statement that is an object"),
    ("x is", " z"),
    (LONG + "is", " value"),
    (LONG + "is", " a longer value than that"),
]
CONTEXTS = ["The import statement is", "x is", "a class is a", LONG + "is"]
NUMBERS = (0, 2, 5, 10)
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


def scores(model, pairs=CHOICES):
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    return model.loglikelihood(requests)


def texts(model, contexts=CONTEXTS, **settings):
    settings = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False, **settings}
    requests = [
        Instance("generate_until", {}, (context, copy.deepcopy(settings)), index)
        for index, context in enumerate(contexts)
    ]
    return model.generate_until(requests)


def alone(folder, pausing, batch_size=1) -> PauseLM:
    """A model that reads complete rows and decodes with stock ``generate``."""
    model = PauseLM(folder, pausing, batch_size)
    model._ahead.shares = False
    return model


def pausings_of(settings) -> list[Pausing]:
    numbers = (0, 1, 2) if settings.get("placement") == "every" else NUMBERS
    return [Pausing(num_pauses=number, **settings) for number in numbers]


def assert_same_scores(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5)


@pytest.fixture
def positions_read(folder):
    """Shape of the ids of every forward pass, without those of the trials."""
    assert folder.sharing_problem is None
    assert folder.branching_problem is None
    read: list[tuple[int, int]] = []
    handle = folder.model.register_forward_pre_hook(
        lambda _, inputs, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    yield read
    handle.remove()


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


def test_ended_answers_leave_the_batch(folder, positions_read):
    model = PauseLM(folder, Pausing(num_pauses=2), 8)
    contexts = [f"{context} {word}" for context in CONTEXTS[:3] for word in ("is", "a", "x")]
    complete = texts(alone(folder, Pausing(num_pauses=2)), contexts, max_gen_toks=20, until=[])
    letters = {letter for text in complete for letter in text[:8]}
    stop = max(letters, key=lambda letter: sum(letter in text[:8] for text in complete))  # ends many answers early
    positions_read.clear()
    found = texts(model, contexts, max_gen_toks=20, until=[stop])
    assert found == [text.split(stop)[0] for text in complete]
    rows = [rows for rows, _ in positions_read]
    assert rows[-1] < rows[1]


class EndsEarly:
    """Ends the first answer after one token, the second after two, the third after three, the fourth after one, ..."""

    def __init__(self) -> None:
        self._seen: list[Answer] = []

    def update(self, answer: Answer) -> None:
        if not any(answer is each for each in self._seen):
            self._seen.append(answer)
        number = next(number for number, each in enumerate(self._seen) if answer is each)
        if len(answer.tokens) > number % 3:
            answer.ending = Ending.ENDED


def test_ended_answers_leave_their_row(folder, positions_read):
    contexts = [without_pauses(folder.encode(text)) for text in CONTEXTS[:2]]
    run = PausedTokens(np.full(2, folder.pause_id), np.ones(2, dtype=bool))
    prefixes = [
        SharedPrefix(context, run, [Branch((number, row), number) for number in (0, 1, 2)])
        for row, context in enumerate(contexts)
    ]
    reader = SharedReader(folder, 2, bidirectional=False)
    complete = reader.decoded(prefixes, 5, StopTexts(folder.tokenizer, folder.tokenizer.decode, []))
    positions_read.clear()
    found = reader.decoded(prefixes, 5, EndsEarly())
    assert sorted(len(answer.tokens) for answer in found.values()) == [1, 1, 2, 2, 3, 3]
    assert all(answer.tokens == complete[key].tokens[: len(answer.tokens)] for key, answer in found.items())
    assert positions_read[1:] == [(2, 2), (2, 1)]  # all six answers have a first token without being read


def test_stop_texts_give_the_answers_of_each_row_by_itself(folder):
    pausings = pausings_of({})

    def each_alone(until):
        return [texts(alone(folder, each, 3), CONTEXTS[:3], until=until, max_gen_toks=12) for each in pausings]

    complete = each_alone([])
    characters = Counter(character for of_pausing in complete for text in of_pausing for character in text)
    for stop, _ in characters.most_common(3):
        expected = each_alone([stop])
        assert expected != complete
        ahead = AnswersAhead(folder, pausings)
        models = [PauseLM(folder, each, 3, ahead) for each in pausings]
        assert [texts(model, CONTEXTS[:3], until=[stop], max_gen_toks=12) for model in models] == expected


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


@pytest.mark.parametrize(
    "settings", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 2}, {"repetition_penalty": 1.3}]
)
def test_other_ways_of_decoding_are_those_of_stock_generate(folder, settings):
    pausing = Pausing(num_pauses=2)
    found = []
    for model in (PauseLM(folder, pausing, 4), alone(folder, pausing, 4)):
        torch.manual_seed(0)
        found.append(texts(model, **settings))
    assert found[0] == found[1]


def test_settings_of_the_model_that_change_decoding_are_kept(model_path):
    folder = load_model_folder(model_path("llama"))
    assert is_greedy(folder.model, {"do_sample": False, "temperature": 0.0})
    plain = texts(PauseLM(folder, Pausing(num_pauses=2), 4), max_gen_toks=20)
    folder.model.generation_config.repetition_penalty = 3.0
    assert not is_greedy(folder.model, {"do_sample": False, "temperature": 0.0})
    penalized = texts(PauseLM(folder, Pausing(num_pauses=2), 4), max_gen_toks=20)
    assert penalized == texts(alone(folder, Pausing(num_pauses=2), 4), max_gen_toks=20) != plain


def test_tokens_that_the_model_suppresses_are_not_decoded(model_path):
    folder = load_model_folder(model_path("llama"))
    model = PauseLM(folder, Pausing(num_pauses=2), 4)
    without = texts(model)
    folder.model.generation_config.suppress_tokens = list(range(0, 512, 2))
    assert texts(model) == texts(alone(folder, Pausing(num_pauses=2), 4)) != without


def ending_of(folder, stop: str, tokens: list[int]) -> Ending:
    """How an answer of ``tokens`` has ended, if each one is added in its turn."""
    decode = partial(folder.tokenizer.decode, skip_special_tokens=True)
    stop_texts, answer = StopTexts(folder.tokenizer, decode, [stop]), Answer()
    for token in tokens:
        assert answer.ending == Ending.OPEN, "it has ended before its last token"
        answer.tokens.append(token)
        stop_texts.update(answer)
    return answer.ending


def test_a_stop_text_over_several_tokens_ends_an_answer(folder):
    ids = folder.tokenizer.encode("a class: is", add_special_tokens=False)
    assert len(folder.tokenizer.encode("class:", add_special_tokens=False)) > 1
    border = next(n for n in range(len(ids)) if "class:" in folder.tokenizer.decode(ids[:n]))
    assert ending_of(folder, "class:", ids[: border - 1]) == Ending.OPEN
    assert ending_of(folder, "class:", ids[:border]) == Ending.ENDED
    assert ending_of(folder, "", ids[:1]) == Ending.DEPENDS  # hf ends at once, but only if all its answers do


LINE_FEED, START, REST = "<0x0A>", "<0xC3>", "<0xA9>"
"""Tokens for single bytes; the last two are the letter e with an accent."""


@pytest.mark.parametrize(
    ("names", "ending"),
    [
        (["▁is", LINE_FEED], Ending.OPEN),  # the next byte may change it
        (["▁is", LINE_FEED, "▁a"], Ending.ENDED),
        (["▁is", LINE_FEED, LINE_FEED, "▁a"], Ending.ENDED),
        (["▁is", LINE_FEED, START], Ending.DEPENDS),  # U+FFFD twice
        (["▁is", LINE_FEED, "<pause>"], Ending.OPEN),  # which has no text, so that bytes still join
        (["▁is", LINE_FEED, "<pause>", START], Ending.DEPENDS),
        (["▁is", START, LINE_FEED], Ending.OPEN),
        (["▁is", START, REST, LINE_FEED, "▁a"], Ending.ENDED),
        (["▁is", START, REST, "▁a"], Ending.OPEN),
    ],
)
def test_bytes_that_follow_a_stop_text_can_change_it(folder, names, ending):
    tokens = folder.tokenizer.convert_tokens_to_ids(names)
    assert folder.tokenizer.convert_ids_to_tokens(tokens) == names
    assert ending_of(folder, "\n", tokens) == ending


def test_a_text_that_depends_on_its_batch_is_that_of_hf(model_path):
    """Few tokens can be decoded, among them line feeds and the start of a letter, so that hf loses many line feeds."""
    folder = load_model_folder(model_path("llama"))
    names = [LINE_FEED, START, "▁is", "▁a", "▁class", "▁value"]
    allowed = folder.tokenizer.convert_tokens_to_ids(names)
    others = [token for token in range(folder.tokenizer.vocab_size) if token not in allowed]
    folder.model.generation_config.suppress_tokens = others
    contexts = [f"{context} {word}" for context in CONTEXTS for word in ("is", "a", "x", "class", "value", "name")]
    pausings = [Pausing(num_pauses=number) for number in (0, 2, 3)]
    of_batches = []
    for batch_size in (1, 4):
        ahead = AnswersAhead(folder, pausings)
        of_batches.append([texts(PauseLM(folder, each, batch_size, ahead), contexts) for each in pausings])
        assert of_batches[-1] == [texts(alone(folder, each, batch_size), contexts) for each in pausings]
    assert of_batches[0] != of_batches[1]


PROBLEMS = {
    "mistral": "not every layer keeps",
    "mamba": "not every layer keeps",
    "lfm2": "not every layer keeps",
    "gptneo": "differ from those of reading everything",
    "longrope": "the length of a text changes",
    "bloom": None,
}
"""Models with a sliding window, without attention, with convolutions besides, with a window over columns of the cache,
and with rotary angles for long texts."""


@pytest.mark.parametrize("shape", [*SHAPES, *PROBLEMS])
def test_every_shape_is_tried(shape, tmp_path):
    """Models that cannot share read every row by itself."""
    folder = load_model_folder(make_model(shape, tmp_path / shape))
    problem = folder.sharing_problem
    expected = PROBLEMS.get(shape)
    assert expected in problem if expected else problem is None
    if problem is None:
        assert (folder.branching_problem is None) == (shape in SHAPES)  # answers have copies of the states else
    pausings = [Pausing(num_pauses=number, filler="a b c", filler_ids=(40, 41, 42)) for number in (0, 2, 5)]
    ahead = AnswersAhead(folder, pausings)
    for pausing in pausings:
        model, other = PauseLM(folder, pausing, 3, ahead), alone(folder, pausing, 3)
        assert_same_scores(scores(model, CHOICES[:6]), scores(other, CHOICES[:6]))
        assert texts(model, CONTEXTS[:3]) == texts(other, CONTEXTS[:3])
