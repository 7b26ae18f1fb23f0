import json
from collections import Counter
from pathlib import Path

import pytest

from pause_megatron.downstream.generated_tasks import GENERATED_TASKS, write_task
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.huggingface import to_huggingface

SIZES = {"train": 2000, "validation": 50, "test": 100}


def read(folder: Path, split: str) -> list[tuple[str, str]]:
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [(record["question"], record["answer"]) for record in map(json.loads, lines)]


@pytest.mark.parametrize("name", GENERATED_TASKS)
def test_same_seed_gives_the_same_bytes_and_another_seed_others(name, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_task(name, tmp_path / folder, seed=seed, **SIZES)
    for split in SIZES:
        a, b, c = ((tmp_path / folder / f"{split}.jsonl").read_bytes() for folder in "abc")
        assert a == b != c


@pytest.mark.parametrize("name", GENERATED_TASKS)
def test_splits_have_their_sizes_and_share_no_held_out_questions(name, tmp_path):
    write_task(name, tmp_path / name, seed=0, **SIZES)
    splits = {split: read(tmp_path / name, split) for split in SIZES}
    assert {split: len(records) for split, records in splits.items()} == SIZES
    held_out = [question for split in ("validation", "test") for question, _ in splits[split]]
    assert len(set(held_out)) == len(held_out)
    assert not set(held_out) & {question for question, _ in splits["train"]}


def test_parity_answers_are_parities_and_training_counts_are_uniform(tmp_path):
    write_task("parity", tmp_path / "parity", seed=0, train=17_000, validation=50, test=1000)
    training, test = (read(tmp_path / "parity", split) for split in ("train", "test"))
    for question, answer in training + test:
        assert len(question) == 17
        assert answer == str(question.count("1") % 2)
    counts = Counter(question.count("1") for question, _ in training)
    assert all(800 < counts[ones] < 1200 for ones in range(17))
    assert Counter(question.count("1") for question, _ in test)[8] > 150, "test bits are uniform, so counts are not"


def test_lookup_answers_follow_the_letter_asked_for(tmp_path):
    write_task("lookup", tmp_path / "lookup", seed=0, **SIZES)
    for question, answer in read(tmp_path / "lookup", "train"):
        pairs, asked = question.removesuffix(":").split("?")
        assert pairs.count(asked) == 1
        assert pairs[pairs.index(asked) + 1] == answer


def test_every_bit_letter_and_digit_is_one_token(tokenizer, tmp_path):
    encode = to_huggingface(tokenizer).encode
    for name in GENERATED_TASKS:
        write_task(name, tmp_path / name, seed=0, **SIZES)
        for question, answer in read(tmp_path / name, "test"):
            ids = encode(question + answer)
            assert len(ids) == len(question + answer)
            assert ids == encode(question) + encode(answer)


def test_more_questions_than_the_task_has_are_refused(tmp_path):
    with pytest.raises(UserError, match="70000 records: more than this generated task has"):
        write_task("parity", tmp_path / "parity", seed=0, train=10, validation=0, test=70_000)
    assert not any(tmp_path.iterdir())


def test_unknown_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="generated task 'chess': unknown; tasks: parity, lookup"):
        write_task("chess", tmp_path / "chess", seed=0)
