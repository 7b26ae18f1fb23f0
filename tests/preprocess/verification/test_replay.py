"""Damage to single tokens, found without the help of hashes, and named by its place."""

import tracemalloc

import numpy as np
import pytest

from pause_megatron.preprocess.dataset_manifest import DatasetManifest, ShardInput
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.shard_writer import ShardWriter
from pause_megatron.records.files import write_record
from tests.preprocess.finished_datasets import BY_HAND, EOD, PAUSE, Damaged, real_place, write_by_hand


def place_of(is_wanted, start=0):
    """The first place from ``start`` on where a mask is true."""
    return start + int(np.flatnonzero(is_wanted[start:])[0])


@pytest.fixture
def found(faults):
    return lambda copy: faults(copy.folder, hashes=False)


def at(copy, place):
    """How a message names a place of a dataset of sequences of 64 tokens."""
    return f"{copy.name}.bin: sequence {place // 64}, token {place % 64} (byte {2 * place}): "


@pytest.mark.parametrize("token", [1024, 65535])
def test_id_beyond_the_vocabulary(damaged, found, token):
    copy = damaged("sequence")
    places = real_place(copy, 1000), real_place(copy, 2000)
    for place in places:
        copy.put(place, token)
    said = f"id {token}, expected one below the vocabulary size 1024 (1 more of this kind)"
    assert found(copy) == [at(copy, places[0]) + said]


def test_negative_id_of_wide_tokens(tmp_path, faults):
    folder = write_by_hand(tmp_path / "data", [[5, 9]], vocab_size=70_000)
    tokens = np.fromfile(folder / "part-0.bin", np.int32)
    tokens[6] = -3
    (folder / "part-0.bin").write_bytes(tokens.tobytes())
    said = "sequence 1, token 1 (byte 24): id -3, expected one below the vocabulary size 70000"
    assert faults(folder, hashes=False)[0] == f"part-0.bin: {said}"


def test_real_token_that_became_a_pause(damaged, found):
    copy = damaged("sequence")
    rows = copy.tokens().reshape(-1, 64)
    is_pause = rows == PAUSE
    alone = ~is_pause & (rows != EOD) & ~np.roll(is_pause, 1) & ~np.roll(is_pause, -1)
    few = is_pause.sum(axis=1, keepdims=True) < 6
    place = place_of((alone & few).reshape(-1), 500)
    copy.put(place, PAUSE)
    shard = copy.manifest.shards[0]
    assert found(copy) == [
        at(copy, place) + "a pause, expected a real token (--pauses sequence, seed 1234)",
        f"{copy.name}.bin: pauses counted are {shard.pauses + 1}, expected {shard.pauses}",
        f"{copy.name}.bin: runs of 1 pauses counted are {shard.pause_runs[1] + 1}, expected {shard.pause_runs[1]}",
    ]


@pytest.mark.parametrize("name", ["sequence", "document", "document-distinct", "drop"])
def test_a_moved_pause_is_found(damaged, found, name):
    copy = damaged(name)
    tokens = copy.tokens()
    is_pause, is_real = tokens == PAUSE, (tokens != PAUSE) & (tokens != EOD)
    # real, real, pause, real, real: moved by one it is as lonely as before
    lonely = is_pause & np.roll(is_real, 1) & np.roll(is_real, 2) & np.roll(is_real, -1) & np.roll(is_real, -2)
    place = place_of(lonely & (np.arange(len(tokens)) % 64 > 4) & (np.arange(len(tokens)) % 64 < 60), 200)
    before = int(tokens[place - 1])
    copy.put(place, before)
    copy.put(place - 1, PAUSE)
    (line,) = found(copy)
    said = f"a pause, expected a real token (--pauses {copy.manifest.strategy}, seed 1234) (1 more of this kind)"
    assert f"(byte {2 * (place - 1)}): {said}" in line


def test_more_pauses_than_a_sequence_was_given(damaged, found):
    copy = damaged("sequence")
    place = real_place(copy, 128)
    pauses = int((copy.tokens()[128:192] == PAUSE).sum())
    for _ in range(7 - pauses):
        copy.put(real_place(copy, 128), PAUSE)
    more = f" ({6 - pauses} more of this kind)" if pauses < 6 else ""
    said = f"a pause, expected a real token (--pauses sequence, seed 1234){more}"
    assert at(copy, place) + said in found(copy)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sequence", {"pause_rate": 0.2}),
        ("sequence", {"pause_rate": 0.05}),
        ("sequence", {"seed": 1235}),
        ("sequence", {"gaps": "distinct"}),
        ("drop", {"gaps": "distinct"}),
        ("document", {"seed": 1235}),
        ("document-distinct", {"gaps": "repeat"}),
        ("drawn", {"rates": None}),
        ("sequence", {"rates": "drawn"}),
        ("every", {"pauses_per_token": 1}),
        ("every", {"strategy": "none", "pauses_per_token": 0}),
        ("none", {"strategy": "every", "pauses_per_token": 1}),
    ],
)
def test_settings_that_do_not_fit_the_pauses(damaged, found, name, changes):
    copy = damaged(name)
    copy.change_settings(**changes)
    assert len([line for line in found(copy) if "expected a" in line]) >= len(copy.manifest.shards)


def test_drawn_rates_that_do_not_fit_the_lengths_of_documents(damaged, found):
    copy = damaged("document-drawn")
    copy.change_settings(rates=None)
    assert any("a document of at least one token with pauses at a rate of 0.3" in line for line in found(copy))


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_rate_that_does_not_fit_the_lengths_of_documents(damaged, found, rate):
    copy = damaged("document")
    copy.change_settings(pause_rate=rate)
    lines = found(copy)
    assert len(lines) == len(copy.manifest.shards)
    wrong_lengths = [
        line for line in lines if f"a document of at least one token with pauses at a rate of {rate}" in line
    ]
    assert wrong_lengths
    # By chance, each length in a shard can be one that the other rate gives, too. Then the places differ.
    assert all("a pause, expected a real token" in line for line in lines if line not in wrong_lengths)


def test_pauses_moved_together_though_gaps_are_distinct(damaged, found):
    copy = damaged("distinct")
    tokens = copy.tokens()
    second = place_of((tokens[1:] == PAUSE) & (np.arange(len(tokens) - 1) % 64 > 50), 640) + 1
    first = place_of(tokens == PAUSE, second // 64 * 64)
    copy.put(first, 77)
    copy.put(second + 1, PAUSE)
    said = "a real token, expected a pause (--pauses sequence, seed 1234) (1 more of this kind)"
    assert found(copy)[0] == at(copy, first) + said


@pytest.mark.parametrize("name", ["distinct", "document", "document-distinct"])
def test_pause_before_the_first_token(damaged, found, name):
    copy = damaged(name)
    copy.put(0, PAUSE)
    assert any(
        line.startswith(f"{copy.name}.bin: sequence 0, token 0 (byte 0): a pause, expected") for line in found(copy)
    )


def test_document_with_a_pause_too_many(damaged, found):
    copy = damaged("document")
    tokens = copy.tokens()
    end = place_of(tokens == EOD)
    place = place_of(tokens != PAUSE, 1)
    assert place < end
    copy.put(place, PAUSE)
    said = "a pause, expected a real token (--pauses document, seed 1234)"
    assert found(copy)[0] == f"{copy.name}.bin: sequence 0, token {place} (byte {2 * place}): {said}"


def test_ends_of_documents_in_wrong_places(damaged, found):
    copy = damaged("document")
    end = place_of(copy.tokens() == EOD)
    place = place_of(copy.tokens() != PAUSE, 5)
    assert place < end
    copy.put(end, 77)
    copy.put(place, EOD)
    assert found(copy) == [
        f"{copy.name}.bin: sequence 0, token {at} (byte {2 * at}): {said}"
        for at, said in (
            (place, "the end-of-document token inside a document"),
            (end, "the last token of a document is not the end-of-document token"),
        )
    ]


def test_more_ends_of_documents_are_lost_than_text_was_left_over(damaged, found):
    copy = damaged("every")
    shard = copy.manifest.shards[0]
    most, least = shard.documents - (shard.tail_tokens > 0), shard.documents - shard.tail_tokens
    ends = np.flatnonzero(copy.tokens() == EOD)
    for place in ends[: len(ends) - least]:
        copy.put(place, 77)
    assert found(copy) == []
    copy.put(ends[-1], 77)
    expected = f"{least} to {most}" if least < most else str(most)
    assert found(copy) == [f"{copy.name}.bin: {least - 1} ends of documents counted, expected {expected}"]


def test_more_ends_than_documents(damaged, found):
    copy = damaged("none")
    for place in range(3):
        copy.put(place, EOD)
    (line,) = found(copy)
    assert line.startswith(f"{copy.name}.bin: {(copy.tokens() == EOD).sum()} ends of documents counted, expected ")


def test_a_pause_in_a_dataset_without_pauses_is_found(damaged, found):
    copy = damaged("none")
    copy.put(70, PAUSE)
    assert found(copy)[0] == at(copy, 70) + "a pause, expected a real token (--pauses none)"


@pytest.mark.parametrize(
    ("place", "token", "said"),
    [
        (132, PAUSE, "a pause, expected a real token (--pauses every)"),
        (133, 77, "a real token, expected a pause (--pauses every)"),
    ],
)
def test_pauses_out_of_step(damaged, found, place, token, said):
    copy = damaged("every")
    copy.put(place, token)
    assert found(copy)[0] == at(copy, place) + said


def test_merged_shards_are_named(damaged, found):
    copy = damaged("document-merged")
    first, second = copy.manifest.shards[:2]
    place = first.tokens + place_of(copy.tokens()[first.tokens :] != PAUSE, 3)
    copy.put(place, 1024)
    said = f"sequence {first.sequences}, token {place - first.tokens} (byte {2 * place}): id 1024, expected one below"
    assert found(copy)[0].startswith(f"merged.bin, shard {second.name}: {said}")


@pytest.fixture(params=["repeat", "distinct"])
def long_document(tmp_path, request):
    """A dataset of one document of six million tokens, and one short document."""
    changes = {"vocab_size": 1024, "pause_rate": 0.1, "gaps": request.param}
    settings = DatasetSettings(**{**BY_HAND, **changes})
    text = np.random.default_rng(0).integers(3, 1024, 6_000_000).astype(np.uint16)
    text[[-10, -1]] = EOD
    folder = tmp_path / "long"
    folder.mkdir()
    with open(folder / "long.bin", "wb") as file:
        writer = ShardWriter(file, settings, 0)
        writer.add(text)
    counts = {"documents": 2, "empty_documents": 0, "skipped_records": 0, "skipped": ()}
    shard = writer.finish(folder, ShardInput(name="long", index=0, input="long.jsonl", input_bytes=0, **counts))
    manifest = DatasetManifest(**vars(settings), shards=(shard,), versions={})
    write_record(folder / "dataset.json", manifest)
    return folder


def test_a_long_document_is_verified_in_a_few_bytes_for_each_token(long_document, faults):
    tracemalloc.start()
    assert faults(long_document) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 6_600_000


def test_damage_far_inside_a_long_document_is_named(long_document, tmp_path, found):
    copy = Damaged(long_document, tmp_path / "copy")
    place = real_place(copy, 6_000_000)
    copy.put(place, PAUSE)
    said = f"sequence 0, token {place} (byte {2 * place}): a pause, expected a real token"
    assert found(copy)[0].startswith(f"long.bin: {said}")
