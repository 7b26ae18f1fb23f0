from pathlib import Path

import pytest

from pause_megatron.config.task_definitions import task_names
from pause_megatron.downstream.tasks import TextPair, load_task
from pause_megatron.errors import UserError

GOOD = '{"question": "01:", "answer": "1"}\n'


def folder_with(tmp_path: Path, **splits: str) -> Path:
    for split, text in splits.items():
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_included_definitions_are_not_tasks():
    assert not [name for name in task_names() if name.startswith("_")]
    assert {"parity", "gsm8k", "lambada"} < set(task_names())


@pytest.mark.parametrize("name", ["3sum", "lookup", "parity"])
def test_training_pairs_are_worded_as_the_harness_words_its_prompts(name, tmp_path):
    data = folder_with(tmp_path, train=GOOD, test=GOOD)
    task = load_task(name, data)
    [pair] = task.training_pairs()
    task.harness.set_fewshot_seed(0)
    task.harness.build_all_requests()
    assert pair.context == task.harness.instances[0].args[0] == "01:"
    assert pair == TextPair("01:", "1")
    assert task.metrics == ["exact_match"]


def test_evaluation_does_not_need_the_training_split(tmp_path):
    task = load_task("parity", folder_with(tmp_path, test=GOOD))
    assert len(task.harness.eval_docs) == 1
    with pytest.raises(UserError, match=r"train.jsonl: no such file; .*, or give --halve-evaluation"):
        task.training_pairs()


def test_unknown_task_is_refused_with_the_known_names():
    with pytest.raises(UserError, match=r"--task sudoku: unknown; tasks: .*lookup, natural_questions, parity"):
        load_task("sudoku", None)


def test_task_without_hub_data_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="give --data FOLDER"):
        load_task("parity", None)
    with pytest.raises(UserError, match="no such folder"):
        load_task("parity", tmp_path / "absent")


@pytest.mark.parametrize(
    ("bad_line", "message"),
    [
        ('{"question": "01:"}\n', 'test.jsonl:2: expected an object with "answer", a text'),
        ('{"question": 3, "answer": "1"}\n', 'test.jsonl:2: expected an object with "question", a text'),
        ('["01:", "1"]\n', "test.jsonl:2: expected an object"),
        ('{"question": \n', "test.jsonl:2: not JSON"),
    ],
)
def test_bad_record_is_named_by_file_and_line(tmp_path, bad_line, message):
    with pytest.raises(UserError) as error:
        load_task("parity", folder_with(tmp_path, test=GOOD + bad_line))
    assert message in str(error.value)


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="no records; write"):
        load_task("parity", folder_with(tmp_path, test=""))
