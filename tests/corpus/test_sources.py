import gzip
import json
import pickle
from pathlib import Path

import pytest

from pause_megatron.corpus import find_sources
from pause_megatron.corpus.sources import shard_name
from pause_megatron.errors import UserError
from tests.corpus.reading import read

C4 = Path(__file__).parents[3] / "shared" / "data" / "c4"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_globs_give_each_file_once_sorted_by_location(tmp_path):
    touch(tmp_path, "b.jsonl", "a.json.gz", "c.json", "d.parquet", "e.jsonl.zst", "sub/f.json.zst", "sub/g.jsonl.gz")
    inputs = [
        tmp_path / "b*",
        tmp_path / "*",
        tmp_path / "c.json",
        tmp_path / "**" / "*.gz",
        tmp_path / "sub/../sub/f*",
    ]
    sources = find_sources(map(str, inputs))
    assert [source.name for source in sources] == ["a", "b", "c", "d", "e", "f", "g"]
    locations = [source.location for source in sources]
    assert locations == sorted(locations)


def test_relative_and_absolute_paths_of_a_file_are_one_source(tmp_path, monkeypatch):
    touch(tmp_path, "a.jsonl")
    monkeypatch.chdir(tmp_path)
    (source,) = find_sources(["a.jsonl", "./a.jsonl", str(tmp_path / "a.jsonl"), f"../{tmp_path.name}/*l"])
    assert source.location == "a.jsonl"


def test_links_to_one_file_are_sources_of_their_own(tmp_path):
    touch(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    assert [source.name for source in find_sources([str(tmp_path / "*")])] == ["a", "b"]


def test_path_with_the_characters_of_a_glob_is_a_path(tmp_path):
    (tmp_path / "a[1].jsonl").write_text('{"text": "a"}\n')
    assert read(tmp_path / "a[1].jsonl").texts == ["a"]


def test_sources_know_their_size_and_can_be_sent_to_a_process(tmp_path):
    touch(tmp_path, "b.parquet")
    (tmp_path / "a.jsonl").write_text("12345")
    sources = find_sources([str(tmp_path / "*")])
    assert [source.size_bytes for source in sources] == [5, 0]
    assert pickle.loads(pickle.dumps(sources)) == sources


@pytest.mark.parametrize(
    ("name", "shard"),
    [("c4-train.00000-of-01024.json.gz", "c4-train.00000-of-01024"), ("a.b.jsonl.zst", "a.b"), ("a.parquet", "a")],
)
def test_shard_name_is_the_file_name_without_suffix(name, shard):
    assert shard_name(Path("folder") / name) == shard


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.jsonl.xz", "a.arrow", "json"])
def test_unknown_suffix_is_refused(tmp_path, name):
    touch(tmp_path, name)
    complaint = r"unknown suffix; give files that end in \.json\.gz, .*\.parquet"
    with pytest.raises(UserError, match=complaint):
        find_sources([str(tmp_path / "*")])


def test_two_files_of_one_name_are_refused_with_both_paths(tmp_path):
    touch(tmp_path, "a/text.jsonl", "b/text.json.gz", "c/other.jsonl")
    with pytest.raises(UserError) as refused:
        find_sources([str(tmp_path / "*" / "*")])
    assert str(refused.value) == (
        f"{tmp_path}/a/text.jsonl and {tmp_path}/b/text.json.gz: the shard name 'text' is taken or reserved; "
        "rename a file or leave it out"
    )


@pytest.mark.parametrize("name", ["dataset.jsonl", ".jsonl"])
def test_names_that_no_shard_may_have_are_refused(tmp_path, name):
    touch(tmp_path, name)
    with pytest.raises(UserError, match=f"{name}: the shard name '.*' is taken or reserved"):
        find_sources([str(tmp_path / name)])


def test_error_shows_the_input_without_files(tmp_path):
    touch(tmp_path, "a.jsonl", "folder/a.jsonl")
    for pattern in ("*.gz", "b.jsonl", "fol*"):
        with pytest.raises(UserError, match="no such file; give paths or quoted globs") as refused:
            find_sources([str(tmp_path / "a.jsonl"), str(tmp_path / pattern)])
        assert str(refused.value).startswith(f"--input {tmp_path / pattern}: ")
    with pytest.raises(UserError, match=r"folder: a folder without .*; give the files in it, e\.g\. '.*\*\.json"):
        find_sources([str(tmp_path / "folder")])


@pytest.mark.skipif(not C4.is_dir(), reason="real C4 text is not here; reading it was not checked")
def test_real_c4_is_read_as_the_standard_library_reads_it():
    for source in find_sources([str(C4 / "c4-*.json.gz")]):
        with gzip.open(source.location, "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in file]
        got = read(source)
        assert got.texts == texts
        assert len(texts) >= 200
