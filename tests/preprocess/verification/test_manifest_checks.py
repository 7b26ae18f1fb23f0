"""Manifests whose numbers do not fit together, or not what lies beside them."""

import pytest

from pause_megatron.errors import UserError


@pytest.fixture
def found(faults):
    return lambda copy: faults(copy.folder, hashes=False)


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("sequence", {"tokens": 65}, "tokens 65, expected {tokens}"),
        ("document", {"documents": 1}, "documents 1, expected {sequences}"),
        ("document", {"bin_bytes": 10}, "bin_bytes 10, expected {bin_bytes}"),
        ("sequence", {"idx_bytes": 10}, "idx_bytes 10, expected {idx_bytes}"),
        ("sequence", {"pause_fraction": 0.1}, "pause_fraction 0.1, expected {pause_fraction}"),
        ("sequence", {"pause_runs": {"1": 3, "2": 5}}, "pauses in pause_runs 13, expected {pauses}"),
        ("sequence", {"skipped_records": 3}, "skipped records listed 0, expected 3"),
        ("sequence", {"trimmed_tokens": 3}, "trimmed_tokens 3, expected 0"),
        ("sequence", {"tail_tokens": 64}, "tail_tokens 64, expected less than a sequence"),
        ("document", {"tail_tokens": 1}, "tail_tokens 1, expected less than a sequence"),
    ],
)
def test_entry_that_contradicts_itself(damaged, found, name, entry, said):
    copy = damaged(name)
    copy.change_entry(**entry)
    shard = copy.manifest.shards[0]
    assert f"dataset.json: shard {shard.name}: " + said.format(**vars(shard)) in found(copy)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"documents": 7}, "ends of documents counted, expected "),
        ({"pauses": 7, "pause_runs": {"7": 1}, "pause_fraction": 7 / 64}, "pauses counted are "),
    ],
)
def test_entry_that_contradicts_the_tokens(damaged, found, entry, said):
    copy = damaged("sequence")
    copy.change_entry(**entry)
    assert any(said in line for line in found(copy))


def test_entry_that_contradicts_the_shards_own(damaged, found):
    copy = damaged("sequence")
    copy.edit("dataset.json", lambda content: content["shards"][1].update(input="other.jsonl"))
    shard = copy.manifest.shards[1]
    assert found(copy) == [f"{shard.name}.json: input is {shard.input}, but other.jsonl in dataset.json"]
    copy.edit(f"{shard.name}.json", lambda record: record["settings"].update(seed=9))
    assert f"{shard.name}.json: seed is 9, but 1234 in dataset.json" in found(copy)
    (copy.folder / f"{shard.name}.json").unlink()
    assert f"{shard.name}.json: No such file or directory" in found(copy)[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pause_id": 1024}, "pause_id 1024 is not below vocab_size 1024"),
        ({"eod_id": 5000}, "eod_id 5000 is not below vocab_size 1024"),
        ({"eod_id": 2}, "pause_id and eod_id are both 2"),
        ({"seq_length": 0}, "seq_length 0 with strategy every"),
        ({"strategy": "document"}, "seq_length 64 with strategy document"),
        ({"pauses_per_token": 4}, "seq_length 64 is not a multiple of 5, a token with its pauses"),
    ],
)
def test_impossible_settings(damaged, found, settings, said):
    copy = damaged("every")
    copy.change_settings(**settings)
    assert found(copy) == [f"dataset.json: {said}"]


def test_shard_that_is_not_listed(damaged, found):
    copy = damaged("sequence")
    missing = copy.manifest.shards[1].name
    copy.edit("dataset.json", lambda content: content["shards"].pop(1))
    assert found(copy) == [
        "dataset.json: indices of the shards are [0, 2], expected [0, 1]",
        f"{missing}.bin: not listed in {copy.folder / 'dataset.json'}".replace(f"{copy.folder}/", ""),
    ]


def test_shard_that_is_listed_twice(damaged, found):
    copy = damaged("sequence")
    first = copy.manifest.shards[0].name
    copy.edit("dataset.json", lambda content: content["shards"].append(content["shards"][0]))
    assert found(copy)[1] == f"dataset.json: lists shard {first} 2 times"


def test_merged_files_that_hold_other_shards(damaged, found):
    copy = damaged("sequence-merged")
    copy.edit("dataset.json", lambda content: content["merged"][0].update(shards=2))
    assert found(copy) == ["dataset.json: shards in the merged files are 2, expected 3"]


def test_damaged_manifest_is_a_user_error(damaged, found):
    copy = damaged("sequence")
    copy.edit("dataset.json", lambda content: content.update(strategy="sequencf"))
    with pytest.raises(UserError, match=r"dataset.json: Invalid enum value 'sequencf'"):
        found(copy)
