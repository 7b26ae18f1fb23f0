"""The demo's corpus: C4's file format, the same bytes every time, no text shared by training and validation."""

import gzip
import json

import pytest

from pause_megatron.corpus import ReadOptions, find_sources
from pause_megatron.errors import UserError
from pause_megatron.experiments.demo_corpus import pydoc_documents, write_c4_corpus, write_pydoc_corpus
from tests.slurm.site import C4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_pydoc_corpus(tmp_path_factory.mktemp("pydoc") / "corpus", train_shards=3)


def records(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def test_shards_are_in_c4_format(corpus):
    assert len(corpus.train) == 3
    for path in (*corpus.train, corpus.validation):
        assert path.name.endswith(".json.gz")
        assert all(list(record) == ["text", "timestamp", "url"] for record in records(path))


def test_every_document_is_written_once(corpus):
    texts = [record["text"] for path in (*corpus.train, corpus.validation) for record in records(path)]
    assert sorted(texts) == sorted(text for _, text in pydoc_documents())


def test_training_and_validation_share_no_paragraph(corpus):
    def paragraphs(path):
        return {line for record in records(path) for line in record["text"].split("\n") if line.endswith(".")}

    train = set.union(*map(paragraphs, corpus.train))
    assert len(paragraphs(corpus.validation)) > 50
    assert not train & paragraphs(corpus.validation)


def test_same_bytes_every_time(tmp_path, corpus):
    again = write_pydoc_corpus(tmp_path / "again", train_shards=3)
    for first, second in zip((*corpus.train, corpus.validation), (*again.train, again.validation), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_documents_are_english_paragraphs():
    texts = [text for _, text in pydoc_documents()]
    assert sum(map(len, texts)) > 200_000
    assert all(300 <= len(text) < 6000 for text in texts)
    assert not any(mark in text for text in texts for mark in ("::=", ">>>", "+---", "****", "===="))
    assert any("short-circuit" in text or "context manager" in text for text in texts)


def test_existing_folder_and_too_many_shards_are_refused(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        write_pydoc_corpus(tmp_path)
    with pytest.raises(UserError, match="train_shards 100000: must be between 1 and"):
        write_pydoc_corpus(tmp_path / "new", train_shards=100_000)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not C4.exists(), reason="no real C4 text beside the repository: the --c4 corpus is not checked")
def test_c4_is_divided_into_training_and_held_out_documents(tmp_path):
    def documents(pattern: str) -> list[str]:
        blocks = (block for source in find_sources([pattern]) for block in source.read(ReadOptions()))
        return [text for block in blocks for text in block.texts]

    files = write_c4_corpus([str(C4)], tmp_path / "corpus", max_documents=100)
    assert [path.name for path in files.train] == [f"c4-train.0000{i}-of-00004.json.gz" for i in range(4)]
    train, held_out = documents(str(tmp_path / "corpus" / "*train*")), documents(str(files.validation))
    assert (len(train), len(held_out)) == (90, 10)
    assert set(train) | set(held_out) == set(documents(str(C4))[:100])
    with pytest.raises(UserError, match=r"--c4 .*: 49 documents; give at least 50"):
        write_c4_corpus([str(C4)], tmp_path / "few", max_documents=49)
