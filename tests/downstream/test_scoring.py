"""Metrics follow the rules of each benchmark, on hand-made cases."""

import pytest
from lm_eval.api.registry import get_filter
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from pause_megatron.downstream import scoring


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Denver Broncos.", "denver broncos"),
        ("an apple, a pear", "apple pear"),
        ("Theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("the", ""),
        ("half-way", "halfway"),
    ],
)
def test_answers_are_normalized_as_in_squad(text, normalized):
    assert scoring.normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("Denver Broncos", ["The Denver Broncos!"], 1, 1),
        ("Broncos", ["Denver Broncos", "the Broncos"], 1, 1),
        ("the Denver team", ["Denver Broncos"], 0, 0.5),
        ("red red blue", ["red blue blue"], 0, 2 / 3),
        ("", ["Denver"], 0, 0),
        ("the", ["a"], 1, 0),  # official SQuAD: equal when normalised, but with no word in common
        ("in the year 1999", ["1999", "in 1999"], 0, 0.8),
    ],
)
def test_squad_takes_the_best_answer(prediction, answers, em, f1):
    found = scoring.squad({"answers": {"text": answers}}, [prediction])
    assert found == {"em": em, "f1": pytest.approx(f1)}


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("white", ["white"], 1, 1),
        ("white", ["white", "white", "grey"], 1, 1),  # whichever is left out, another is the same
        ("white", ["white", "grey"], 0.5, 0.5),  # left out itself, the other counts
        ("in a barn", ["barn", "in the old barn", "a barn"], 0, (0.8 + 2 / 3 + 0.8) / 3),
        ("the", ["a"], 1, 1),  # two texts without words are equal in CoQA
        ("", ["unknown", "unknown"], 0, 0),
    ],
)
def test_coqa_leaves_every_answer_out_once(prediction, answers, em, f1):
    found = scoring.coqa({"answers": answers}, [prediction])
    assert found == {"em": pytest.approx(em), "f1": pytest.approx(f1)}


SOLUTION = "He sells 16 - 3 = <<16-3=13>>13 eggs.\n#### 1,234"


@pytest.mark.parametrize(
    ("output", "accuracy", "last_number"),
    [
        ("so it is\n#### 1,234", 1, 1),
        ("#### 1234", 1, 1),
        ("#### 1235", 0, 0),
        ("#### 1234\n\n#### 7", 1, 0),  # the first after the signs, and the last of all
        ("The answer is $1,234.", 0, 1),
        ("The answer is 1,234 of 2000", 0, 0),
        ("no number at all", 0, 0),
        ("", 0, 0),
    ],
)
def test_gsm8k_compares_the_final_number(output, accuracy, last_number):
    found = scoring.gsm8k({"answer": SOLUTION}, [output])
    assert (found["accuracy"], found["last_number"]) == (accuracy, last_number)


@pytest.mark.slow
def test_gsm8k_scores_equal_those_of_the_harness():
    """Compare with the harness's definition of the task, its filters and metric, on the same outputs."""
    path = TaskManager(include_defaults=True).task_index["gsm8k"].yaml_path
    definition = load_yaml(path)
    filters = {each["name"]: each["filter"][0] for each in definition["filter_list"]}
    [metric] = definition["metric_list"]
    ignored = [value for key, value in metric.items() if key == "regexes_to_ignore"]
    assert ignored == [scoring._GSM8K_IGNORES]
    for ours, name in ((scoring._AFTER_HASHES, "strict-match"), (scoring._LAST_NUMBER, "flexible-extract")):
        settings = {key: value for key, value in filters[name].items() if key != "function"}
        theirs = get_filter("regex")(**settings)
        outputs = [["#### 12 then 13"], ["about -3.5 or $4"], ["nothing"], ["#### -7,000."]]
        assert ours.apply(outputs, [{}] * 4) == theirs.apply(outputs, [{}] * 4)


def test_rouge_counts_words():
    found = scoring.gsm8k({"answer": "one two three four"}, ["two four six eight"])
    assert found["rouge1"] == pytest.approx(0.5)


def test_any_accepted_answer_and_the_correct_choice_score():
    assert scoring.any_answer({"answers": ["Jamaican English", "Patois"]}, ["the patois."])["em"] == 1
    assert scoring.any_answer({"answer": ["December 1972"]}, ["1972"]) == {"em": 0, "f1": pytest.approx(2 / 3)}
    document = {"choices": {"text": ["bank", "library"], "label": ["A", "B"]}, "answerKey": "B"}
    assert scoring.decoded_choice(document, ["The library"]) == {"em": 1}
    assert scoring.decoded_choice(document, ["bank"]) == {"em": 0}


def test_last_word_is_right_when_greedy():
    assert scoring.last_word({}, [(-1.5, True)]) == {"em": 1, "perplexity": -1.5}
    assert scoring.last_word({}, [(-1.5, False)])["em"] == 0
