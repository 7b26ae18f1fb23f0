import hashlib
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from pause_megatron.cli.main import main
from pause_megatron.config.generated_tasks import TASK_PARAMETERS, GenerateTaskConfig
from pause_megatron.downstream.generated_tasks import generate_task, write_task
from pause_megatron.errors import EXIT_DONE, UserError
from pause_megatron.records.files import read_record
from pause_megatron.records.generated_task import GeneratedTaskRecord
from pause_megatron.tokenizer.huggingface import to_huggingface

SIZES = {"train": 2000, "validation": 50, "test": 100}


def read(folder: Path, split: str) -> list[tuple[str, str]]:
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [(record["question"], record["answer"]) for record in map(json.loads, lines)]


@pytest.mark.parametrize("name", TASK_PARAMETERS)
def test_same_seed_gives_the_same_bytes_and_another_seed_others(name, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_task(name, tmp_path / folder, seed=seed, **SIZES)
    for split in SIZES:
        a, b, c = ((tmp_path / folder / f"{split}.jsonl").read_bytes() for folder in "abc")
        assert a == b != c


@pytest.mark.parametrize("name", TASK_PARAMETERS)
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
    for name in TASK_PARAMETERS:
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
    with pytest.raises(UserError, match="generated task 'chess': unknown; tasks: parity, lookup, 3sum"):
        write_task("chess", tmp_path / "chess", seed=0)


@pytest.mark.parametrize(
    ("name", "digests"),
    [
        ("parity", {"train": "5698766fa1c8869c", "validation": "29d8182384e4819b", "test": "52cf0fcca7077776"}),
        ("lookup", {"train": "87bea7a3a0cf4afa", "validation": "d9e52d5c75f7f6d7", "test": "6fbeae35db5b85ac"}),
    ],
)
def test_bytes_of_the_first_version_stay(name, digests, tmp_path):
    write_task(name, tmp_path / name, seed=3, train=300, validation=20, test=40)
    for split, digest in digests.items():
        assert hashlib.sha256((tmp_path / name / f"{split}.jsonl").read_bytes()).hexdigest().startswith(digest)


def records(folder: Path, split: str = "train") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_hints_of_parity_are_thresholds_of_the_count(tmp_path):
    folder = tmp_path / "parity"
    write_task("parity", folder, seed=0, train=300, validation=10, test=10, bits=20, hints=True)
    for record in records(folder):
        ones = record["question"].count("1")
        assert record["hints"] == ["1"] * ones + ["0"] * (20 - ones)
        assert record["answer"] == str(ones % 2)
    assert not any("hints" in record for record in records(folder, "test"))
    plain = tmp_path / "plain"
    write_task("parity", plain, seed=0, train=300, validation=10, test=10, bits=20)
    assert read(plain, "train") == read(folder, "train"), "hints change no question"


def test_counts_of_each_split_are_chosen(tmp_path):
    sizes = {"train": 4000, "validation": 50, "test": 2000}
    write_task("parity", tmp_path / "a", seed=0, **sizes, train_counts="binomial", test_counts="uniform", bits=30)
    training, test = (
        [question.count("1") for question, _ in read(tmp_path / "a", split)] for split in ("train", "test")
    )
    assert all(5 <= ones <= 25 for ones in training)
    assert sum(ones < 5 or ones > 25 for ones in test) > 300


@pytest.mark.parametrize("modulus", [10, 4])
def test_answers_and_hints_of_3sum_hold_by_brute_force(modulus, tmp_path):
    folder = tmp_path / "3sum"
    sizes = {"train": 1000, "validation": 50, "test": 100}
    write_task("3sum", folder, seed=0, **sizes, vectors=6, digits=2, modulus=modulus, hints=True)
    for split in ("train", "test"):
        for record in records(folder, split):
            question = record["question"].removesuffix(":")
            assert question[::3] == "abcdef"
            vectors = [[int(digit) for digit in question[3 * index + 1 : 3 * index + 3]] for index in range(6)]
            triples = [
                triple
                for triple in combinations(range(6), 3)
                if all(sum(vectors[index][digit] for index in triple) % modulus == 0 for digit in range(2))
            ]
            assert record["answer"] == str(int(bool(triples)))
            if split == "train":
                pairs = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)]
                completed = {triple[:2] for triple in triples}
                assert record["hints"] == [str(int(pair in completed)) for pair in pairs]
    answers = [answer for _, answer in read(folder, "train")]
    assert 400 < answers.count("1") < 650


def test_command_records_all_parameters_and_the_seed(tmp_path):
    words = ["generate-task", "parity", "--output", str(tmp_path / "parity"), "--bits", "20", "--hints", "--seed", "5"]
    assert main([*words, "--train", "30", "--test", "20", "--validation", "0"]) == EXIT_DONE
    assert read_record(tmp_path / "parity" / "generated_task.json", GeneratedTaskRecord) == GeneratedTaskRecord(
        task="parity",
        parameters={"bits": 20, "train_counts": "uniform", "test_counts": "binomial", "hints": True},
        num_hints=20,
        seed=5,
        train=30,
        validation=0,
        test=20,
    )
    write_task("parity", tmp_path / "again", seed=5, train=30, validation=0, test=20, bits=20, hints=True)
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / "parity" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "lookup", "bits": 20}, r"--bits 20: is not a parameter of lookup; remove it"),
        ({"task": "lookup", "hints": True}, r"--hints: is not a parameter of lookup"),
        ({"task": "parity", "vectors": 4}, r"--vectors 4: is not a parameter of parity"),
        ({"task": "parity", "bits": 0}, r"--bits 0: must be at least 1"),
        ({"task": "lookup", "pairs": 27}, r"--pairs 27: there are 26 letters"),
        ({"task": "3sum", "vectors": 2}, r"--vectors 2: must be at least 3"),
        ({"task": "3sum", "modulus": 11}, r"--modulus 11: an entry is one digit"),
        ({"task": "3sum", "vectors": 12, "digits": 1}, r"--vectors 12: nearly every question .*22.0 times"),
        ({"task": "parity", "train": 0}, r"--train 0: must be at least 1"),
    ],
)
def test_parameters_that_a_task_does_not_have_are_refused(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        generate_task(GenerateTaskConfig(output=tmp_path / "task", **settings))
    assert not any(tmp_path.iterdir())
