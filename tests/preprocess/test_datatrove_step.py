"""The datatrove step writes the bytes of preprocessing, one shard for each task, and resumes as datatrove does."""

from __future__ import annotations

import gzip
import json
import pickle

import pytest

from pause_megatron.config.preprocess import InsertionConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.run import preprocess
from tests.chain import verified
from tests.preprocess.conftest import contents, token_hashes

pytest.importorskip("datatrove", reason="datatrove is not installed; its step was not checked")

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader

from pause_megatron.preprocess.datatrove_step import PauseDatasetWriter

FILES = 4
INSERTION = InsertionConfig(seq_length=256)


@pytest.fixture(scope="module")
def texts(corpus, tmp_path_factory):
    """Four files of text."""
    folder = tmp_path_factory.mktemp("texts")
    lines = [line for path in corpus.train for line in gzip.decompress(path.read_bytes()).splitlines(keepends=True)]
    for number in range(FILES):
        (folder / f"{number}.jsonl").write_bytes(b"".join(lines[number::FILES]))
    return folder


@pytest.fixture(scope="module")
def reference(texts, config_for, tmp_path_factory):
    """A function that returns the dataset that ``preprocess --workers 2`` makes of the files of each task."""

    def make(tasks):
        folder = tmp_path_factory.mktemp(f"reference-{tasks}")
        files = sorted(texts.iterdir())
        for task in range(tasks):  # datatrove deals the files to the tasks
            joined = b"".join(path.read_bytes() for path in files[task::tasks])
            (folder / f"part-{task:05}-of-{tasks:05}.jsonl").write_bytes(joined)
        preprocess(config_for(folder / "data", input=(str(folder / "*.jsonl"),), workers=2))
        return folder / "data"

    return make


class FailsOnce:
    """Step that fails in one task while its marker file exists, after some documents."""

    def __init__(self, marker, rank):
        self.marker, self.rank = marker, rank

    def __call__(self, data, rank, world_size):
        for number, document in enumerate(data):
            if number == 20 and rank == self.rank and self.marker.exists():
                self.marker.unlink()
                raise RuntimeError("this task fails once")
            yield document


def pipeline(texts, output, tokenizer, tasks, *, workers=1, between=(), **settings):
    steps = [JsonlReader(str(texts)), *between, PauseDatasetWriter(output, tokenizer.path, INSERTION)]
    return LocalPipelineExecutor(
        steps, tasks=tasks, workers=workers, logging_dir=str(output.parent / f"{output.name}-logs"), **settings
    )


@pytest.mark.parametrize(("tasks", "workers"), [(1, 1), (2, 2), (4, 2)])
def test_tasks_write_the_bytes_of_preprocessing(tasks, workers, texts, reference, tokenizer, tmp_path):
    stats = pipeline(texts, tmp_path / "data", tokenizer, tasks, workers=workers).run()
    expected = reference(tasks)
    assert len(token_hashes(expected)) == 2 * tasks
    assert token_hashes(tmp_path / "data") == token_hashes(expected)
    manifest = verified(tmp_path / "data")
    for shard, other in zip(manifest.shards, load_dataset_manifest(expected).shards, strict=True):
        assert shard.input == f"datatrove task {shard.index} of {tasks}"
        own, theirs = ({**vars(each), "input": "", "input_bytes": 0} for each in (shard, other))
        assert own == theirs
    found = stats.to_dict() if hasattr(stats, "to_dict") else json.loads(stats.to_json())
    (step,) = [step for step in found if "Megatron" in step["name"]]
    counted = step["stats"]["tokens"]
    assert (counted if isinstance(counted, int) else counted["total"]) == manifest.tokens


def test_a_failed_task_is_resumed_to_the_same_bytes(texts, reference, tokenizer, tmp_path):
    marker = tmp_path / "marker"
    marker.touch()
    steps = {"between": (FailsOnce(marker, 1),)}
    with pytest.raises(RuntimeError, match="fails once"):
        pipeline(texts, tmp_path / "data", tokenizer, 2, **steps).run()
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if path.is_file()) == [
        f"part-00000-of-00002.{kind}" for kind in ("bin", "idx", "json")
    ]
    pipeline(texts, tmp_path / "data", tokenizer, 2, **steps).run()
    assert token_hashes(tmp_path / "data") == token_hashes(reference(2))
    before = contents(tmp_path / "data")
    pipeline(texts, tmp_path / "data", tokenizer, 2, skip_completed=False).run()
    assert contents(tmp_path / "data") == before


def documents(count=50, text="Some text of a document. "):
    return [Document(text=text * 20, id=str(number)) for number in range(count)]


def test_a_shard_that_is_written_again_is_incomplete_until_its_end(tokenizer, tmp_path):
    writer = PauseDatasetWriter(tmp_path, tokenizer.path, INSERTION)
    writer.run(documents(), 0, 1)
    before = contents(tmp_path)

    def watched():
        assert not (tmp_path / "dataset.json").exists()
        assert not (tmp_path / "part-00000-of-00001.json").exists()
        yield from documents()

    def late():  # asserts after the writer has begun: the first blocks of a task are read before its encoder is chosen
        yield from documents(2000)
        yield from watched()

    writer.run(late(), 0, 1)
    assert contents(tmp_path).keys() == before.keys()
    assert contents(tmp_path) != before


def test_a_task_without_documents_writes_an_empty_shard(tokenizer, tmp_path):
    writer = pickle.loads(pickle.dumps(PauseDatasetWriter(tmp_path, tokenizer.path, INSERTION)))
    writer.run(iter(documents()), 1, 2)
    writer.run(None, 0, 2)
    assert [shard.documents for shard in verified(tmp_path).shards] == [0, 50]


def test_other_tasks_and_settings_are_refused(tokenizer, tmp_path):
    PauseDatasetWriter(tmp_path, tokenizer.path, INSERTION).run(documents(), 0, 2)
    with pytest.raises(UserError, match=r"part-00000-of-00002\.json: is not of a pipeline with 3 tasks"):
        PauseDatasetWriter(tmp_path, tokenizer.path, INSERTION).run(documents(), 1, 3)
    for rank in (0, 1):
        with pytest.raises(UserError, match=r"was written with seq_length=256, but this task uses seq_length=128"):
            PauseDatasetWriter(tmp_path, tokenizer.path, InsertionConfig(seq_length=128)).run(documents(), rank, 2)


def test_texts_that_cannot_be_encoded_are_named(tokenizer, tmp_path):
    writer = PauseDatasetWriter(tmp_path, tokenizer.path, INSERTION, max_document_megabytes=1)
    with pytest.raises(UserError, match=r"datatrove task 0 of 1, document '7': not Unicode text"):
        writer.run([*documents(3), Document(text="\ud800", id="7")], 0, 1)
    with pytest.raises(UserError, match=r"document '8': 1500000 bytes long, more than the 1000000 allowed"):
        writer.run([*documents(3), Document(text="a" * 1_500_000, id="8")], 0, 1)
    assert not list(tmp_path.glob("*.json"))


def test_settings_are_checked_when_the_step_is_made(tokenizer, tmp_path):
    with pytest.raises(UserError, match="--also nope"):
        PauseDatasetWriter(tmp_path, tokenizer.path, also=["nope"])
