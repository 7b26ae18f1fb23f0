"""Local records of every task: a good record gives its target; each kind of wrong record is named by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.task_definitions import task_names
from pause_megatron.downstream.tasks import load_task
from pause_megatron.errors import UserError

CHOICES = {"text": ["ash", "oak", "elm", "fir", "yew"], "label": ["A", "B", "C", "D", "E"]}
TREE = {"question": "Which tree?", "choices": CHOICES, "answerKey": "C"}
BITS = {"question": "01:", "answer": "1"}
OTHERS = {str(n): {"input_text": ["a fox", "red"]} for n in range(3)}
TALK = {
    "story": "A fox.",
    "questions": {"input_text": ["Who?", "Colour?"]},
    "answers": {"input_text": ["fox", "red"]},
    "additional_answers": OTHERS,
}
ENDINGS = {"activity_label": "Tea", "ctx_a": "She boils", "ctx_b": "water", "endings": list("wxyz"), "label": "2"}
GOAL = {"goal": "Cut bread", "sol1": "a saw", "sol2": "a knife", "label": 1}
QUESTION = {"context": "The fox is red.", "question": "Colour?", "answers": {"text": ["red", "a red"]}}

GOOD: dict[str, tuple[dict[str, Any], str]] = {
    "commonsense_qa": (TREE, " elm"),
    "commonsense_qa_choices": (TREE, " C"),
    "coqa": (TALK, " fox"),
    "gsm8k": ({"question": "1 + 1?", "answer": "#### 2"}, " #### 2"),
    "hellaswag": (ENDINGS, " y"),
    "lambada": ({"text": "they went to the lake"}, " lake"),
    "3sum": (BITS, "1"),
    "lookup": (BITS, "1"),
    "natural_questions": ({"question": "who", "answer": ["Ada", "Ada L."]}, " Ada"),
    "parity": (BITS, "1"),
    "piqa": (GOAL, " a knife"),
    "squad": (QUESTION, " red"),
    "web_questions": ({"question": "who?", "answers": ["Ada", "Ada L."]}, " Ada"),
    "web_questions_choices": ({"question": "who?", "answers": ["Ada", "Bo"]}, " Ada"),
}
"""A record of each task, and its target with the delimiter."""


def targets(task: str, content: bytes, folder: Path) -> list[str]:
    """Targets of the training examples, if every split holds ``content``."""
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_bytes(content)
    return [pair.target for pair in load_task(task, folder).training_pairs()]


def line(record: object) -> bytes:
    return json.dumps(record).encode() + b"\n"


def refusal(task: str, bad_line: bytes, folder: Path) -> str:
    """Error for a bad record in line 3, after a good one and a blank line."""
    with pytest.raises(UserError) as error:
        targets(task, line(GOOD[task][0]) + b" \n" + bad_line, folder)
    message = str(error.value)
    assert ".jsonl:3: " in message
    assert "\n" not in message
    assert message.endswith("; correct the line or remove it")
    return message


def test_the_table_has_every_task():
    assert sorted([*GOOD, "text"]) == task_names()  # text has no prompts and answers


@pytest.mark.parametrize("task", GOOD)
def test_good_record_gives_its_target(task, tmp_path):
    record, target = GOOD[task]
    extra = line({**record, "unused": [1]})
    content = b"\xef\xbb\xbf" + extra + b"\r\n \t\n" + extra.replace(b"\n", b"\r\n")  # byte order mark, blank lines
    found = targets(task, content, tmp_path)
    assert found[0] == target
    assert found[-1] == (" red" if task == "coqa" else target)


@pytest.mark.parametrize("task", GOOD)
def test_each_missing_key_and_wrong_type_is_named(task, tmp_path):
    record, _ = GOOD[task]
    optional = {"additional_answers"}
    for key in record.keys() - optional:
        assert f'"{key}' in refusal(task, line({name: record[name] for name in record if name != key}), tmp_path)
    for key in record:
        for wrong in (1.5, {"label": 1}, [None]):
            assert f'"{key}' in refusal(task, line({**record, key: wrong}), tmp_path)


@pytest.mark.parametrize("task", GOOD)
def test_wrong_encodings_and_broken_json_are_named(task, tmp_path):
    record, _ = GOOD[task]
    key, value = next((key, value) for key, value in record.items() if isinstance(value, str))
    good = json.dumps({**record, key: value + "#"}).encode()
    for bad, reason in (
        (good.replace(b"#", b"\xe9"), "not UTF-8 (byte"),
        (good.decode().encode("utf-16"), "not UTF-8 (byte 1"),
        (good.replace(b"#", b"\\ud83d"), "half of a surrogate pair"),
        (good[:-1], "not JSON: "),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b"[]", "expected an object"),
        (b"\0\0\0\0", "not JSON: "),
    ):
        assert reason in refusal(task, bad + b"\n", tmp_path)


def changed(record: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {**record, **parts}


@pytest.mark.parametrize(
    ("task", "record", "problem"),
    [
        ("commonsense_qa", changed(TREE, answerKey=""), '"answerKey" must be one of "choices.label"'),
        ("commonsense_qa", changed(TREE, answerKey="c"), '"answerKey" must be one of "choices.label"'),
        ("commonsense_qa", changed(TREE, choices=changed(CHOICES, label=["A"])), "must have the same length"),
        ("commonsense_qa", changed(TREE, choices=changed(CHOICES, text=["v", "w", "x", " ", "y"])), '"choices.text"'),
        ("commonsense_qa_choices", changed(TREE, answerKey="F"), '"answerKey" must be one of "choices.label"'),
        (
            "commonsense_qa_choices",
            changed(TREE, choices=changed(CHOICES, label=list("12345"))),
            "must be A, B, C, D, E",
        ),
        ("coqa", changed(TALK, answers={"input_text": ["fox"]}), '"questions" and "answers" must have the same length'),
        ("coqa", changed(TALK, answers={"input_text": ["fox", " "]}), '"answers.input_text"'),
        ("coqa", changed(TALK, additional_answers={"0": OTHERS["0"]}), '"additional_answers.1.input_text"'),
        (
            "coqa",
            changed(TALK, additional_answers=changed(OTHERS, **{"1": {"input_text": ["a fox"]}})),
            '"questions" and "additional_answers" must have the same length',
        ),
        ("gsm8k", {"question": "1 + 1?", "answer": " "}, '"answer", a text that is not blank'),
        ("hellaswag", changed(ENDINGS, label=""), '"label" must be the position'),
        ("hellaswag", changed(ENDINGS, label="4"), '"label" must be the position'),
        ("hellaswag", changed(ENDINGS, endings=["w", "x", "", "z"]), '"endings"'),
        ("lambada", {"text": ""}, '"text", a text that is not blank'),
        ("lambada", {"text": "lake "}, "two or more words"),
        ("natural_questions", {"question": "who", "answer": ["Ada", ""]}, '"answer", a list of one or more texts'),
        ("parity", {"question": "01:", "answer": ""}, '"answer", a text that is not blank'),
        ("lookup", {"question": "a1?a:", "answer": "\n"}, '"answer", a text that is not blank'),
        ("piqa", changed(GOAL, label=2), '"label" must be 0 or 1'),
        ("piqa", changed(GOAL, label=-1), '"label" must be 0 or 1'),
        ("piqa", changed(GOAL, label=True), '"label", an integer'),
        ("piqa", changed(GOAL, label=10**30), '"label", an integer'),
        ("piqa", changed(GOAL, sol1=""), '"sol1", a text that is not blank'),
        ("squad", changed(QUESTION, answers={"text": []}), '"answers.text"'),
        ("squad", changed(QUESTION, answers={"text": ["red", "\t"]}), '"answers.text"'),
        ("web_questions", {"question": "who?", "answers": []}, '"answers"'),
        ("web_questions_choices", {"question": "who?", "answers": [""]}, '"answers"'),
    ],
)
def test_records_that_contradict_themselves_are_named(task, record, problem, tmp_path):
    assert problem in refusal(task, line(record), tmp_path)


def test_white_space_at_the_end_of_a_passage_is_not_its_last_word(tmp_path):
    content = b"".join(line({"text": f"they went to the lake{end}"}) for end in ("", " ", "\n", " \r\n\t"))
    assert targets("lambada", content, tmp_path) == [" lake", " lake"]  # of every second passage
    task = load_task("lambada", tmp_path)
    assert [task.target(document) for document in task.harness.test_docs()] == [" lake", " lake"]


@pytest.mark.parametrize("others", [None, {}, {str(n): {"input_text": [""]} for n in range(3)}])
def test_conversations_without_additional_answers_have_one_answer_a_turn(others, tmp_path):
    content = line(changed(TALK, additional_answers=others))  # the hub's training split has one empty text
    assert targets("coqa", content, tmp_path) == [" fox", " red"]
    answers = [document["answers"] for document in load_task("coqa", tmp_path).harness.validation_docs()]
    assert answers == [["fox"], ["red"]]


def test_hub_that_cannot_be_reached_explains_how_to_prepare_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError) as error:
        load_task("gsm8k", None)
    message = str(error.value)
    assert message.startswith("--task gsm8k: cannot load openai/gsm8k from the hub (")
    assert "datasets.load_dataset('openai/gsm8k', 'main') with .to_json('FOLDER/SPLIT.jsonl')" in message
    assert "\n" not in message


def test_answers_longer_than_the_model_has_positions_are_refused(tmp_path):
    targets("gsm8k", line(GOOD["gsm8k"][0]), tmp_path)
    task = load_task("gsm8k", tmp_path)
    task.require_room(257)
    with pytest.raises(UserError, match=r"--task gsm8k: decodes up to 256 tokens .* has only 256 positions"):
        task.require_room(256)
