"""Greedy answers end as those of stock ``generate`` in the harness, and leave the batch or their row then."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from pause_megatron.downstream.greedy_decoding import Answer, Ending, StopTexts, is_greedy
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.shared_prefixes import Branch, SharedPrefix
from pause_megatron.downstream.shared_requests import AnswersAhead, SharedReader
from pause_megatron.pauses.prompts import PausedTokens, without_pauses
from tests.downstream.answers import CONTEXTS, alone, pausings_of, texts


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
