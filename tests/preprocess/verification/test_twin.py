"""Comparison with the standard twin, without the help of hashes."""

import pytest

from pause_megatron.errors import UserError
from pause_megatron.preprocess.run import preprocess
from tests.preprocess.finished_datasets import KINDS, real_place


@pytest.fixture
def found(faults, datasets):
    return lambda copy, standard=None: faults(copy.folder, hashes=False, standard=standard or datasets / "none")


@pytest.mark.parametrize("name", KINDS)
def test_changed_real_token(damaged, found, datasets, name):
    copy = damaged(name)
    place = real_place(copy, 700)
    token = int(copy.tokens()[place])
    copy.put(place, token + 1 if token < 1023 else 500)
    (line,) = found(copy)
    said = f"id {copy.tokens()[place]}, expected {token} as at token "
    assert line.startswith(f"{copy.name}.bin: sequence ")
    assert f"(byte {2 * place}): {said}" in line
    assert line.endswith(f" of {datasets}/none/{copy.name}.bin")


@pytest.mark.parametrize("name", ["document-merged", "sequence-merged"])
def test_changed_real_token_of_a_merged_shard(damaged, found, datasets, name):
    copy = damaged(name)
    first = copy.manifest.shards[0].tokens
    place = real_place(copy, first + 700)
    copy.put(place, 500 if copy.tokens()[place] != 500 else 501)
    (line,) = found(copy, datasets / "none-merged")
    assert line.startswith(f"merged.bin, shard {copy.manifest.shards[1].name}: sequence ")
    assert line.endswith(f" of {datasets}/none-merged/merged.bin, shard {copy.manifest.shards[1].name}")


def test_lost_token_shifts_all_that_follow(damaged, found):
    copy = damaged("sequence")
    tokens = copy.tokens()
    place = real_place(copy, 3000)
    tokens[place:-1] = tokens[place + 1 :]
    copy.bin.write_bytes(tokens.tobytes())
    (line,) = [line for line in found(copy) if "as at token" in line]
    assert int(line.rpartition("(")[2].partition(" more")[0]) > (len(tokens) - place) / 2


def test_text_of_other_length(damaged, found, datasets):
    copy = damaged("sequence")
    shard = copy.manifest.shards[0]
    copy.change_entry(tail_tokens=(shard.tail_tokens + 1) % 64, documents=shard.documents + 1)
    lines = found(copy)
    twin = f"{datasets}/none/{copy.name}.bin"
    said = f"documents, compared with {twin}, are {shard.documents + 1}, expected {shard.documents}"
    assert f"{copy.name}.bin: {said}" in lines
    real = shard.real_tokens + shard.tail_tokens
    other = shard.real_tokens + (shard.tail_tokens + 1) % 64
    assert f"{copy.name}.bin: tokens of text, compared with {twin}, are {other}, expected {real}" in lines


def test_twin_with_pauses_is_refused(damaged, found, datasets):
    with pytest.raises(UserError, match=r"--standard .*every: written with --pauses every; give a dataset of"):
        found(damaged("sequence"), datasets / "every")


def test_twin_of_another_tokenizer_is_refused(damaged, found):
    other = damaged("none")
    other.change_settings(tokenizer_sha256="f" * 64)
    with pytest.raises(UserError, match=r"its tokenizer_sha256 is f{64}, that of --data is [0-9a-f]{64}; give a"):
        found(damaged("sequence"), other.folder)


def test_twin_of_other_input_is_refused(tmp_path, damaged, found, config_for, corpus):
    preprocess(config_for(tmp_path / "fewer", input=tuple(map(str, corpus.train[:2])), pauses="none", seq_length=64))
    copy = damaged("sequence")
    with pytest.raises(UserError, match=rf"has no shard {copy.manifest.shards[2].name} \(number 2, from /.*\); give a"):
        found(copy, tmp_path / "fewer")


def test_twin_of_changed_input_is_found(tmp_path, damaged, found, config_for, corpus):
    """The same names, but the first file's content in place of the second's."""
    for path, source in zip(corpus.train, (corpus.train[0], corpus.train[0], corpus.train[2]), strict=True):
        (tmp_path / path.name).write_bytes(source.read_bytes())
    inputs = tuple(str(tmp_path / path.name) for path in corpus.train)
    preprocess(config_for(tmp_path / "other", input=inputs, pauses="none", seq_length=64))
    copy = damaged("document")
    lines = found(copy, tmp_path / "other")
    name = copy.manifest.shards[1].name
    assert all(line.startswith(f"{name}.bin: ") for line in lines)
    assert any("as at token 0 of" in line and "more of this kind" in line for line in lines)
