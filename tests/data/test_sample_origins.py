"""The documents found for a sample have its text, compared with the input files; foreign ids are reported with them."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from pause_megatron.config.serialize import to_plain
from pause_megatron.data import sample_origins
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.datasets import SequenceDataset
from pause_megatron.data.sample_order import TrainingData, ValidationData
from pause_megatron.data.sample_origins import Origin, find_origins, find_origins_together, read_sample
from pause_megatron.data.training_sample import SampleDataset
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer import PauseTokenizer
from tests.chain import SEQ_LENGTH, preprocess_config
from tests.data.datasets import SHARDS, Datasets
from tests.distributed import run_distributed


@lru_cache
def documents_in(path: str, tokenizer: Path) -> list[list[int]]:
    """Tokens of every document with text in an input file, with their end-of-document tokens."""
    opened = PauseTokenizer.load(tokenizer)
    lines = (gzip.decompress if path.endswith(".gz") else bytes)(Path(path).read_bytes()).splitlines()
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    texts = [record["text"] for record in records]
    return [[*opened.encode(text), opened.eod_id] for text in texts if text and isinstance(text, str)]


def real_tokens(dataset: SampleDataset, sample: int) -> list[int]:
    tokens = dataset[sample][:-1]
    return [int(token) for token in tokens[tokens != dataset.source.manifest.pause_id]]


def assert_holds(tokens: list[int], origin: Origin, tokenizer: Path) -> None:
    """Assert that ``tokens`` start in the first document of ``origin``, contain the next ones, and end in the last."""
    documents = [
        document for each in origin for document in documents_in(each.input, tokenizer)[each.first : each.last + 1]
    ]
    text = [token for document in documents for token in document]
    behind_first, last = len(documents[0]), len(text) - len(documents[-1])
    places = range(max(0, last - len(tokens) + 1), min(behind_first, len(text) - len(tokens) + 1))
    assert any(text[place : place + len(tokens)] == tokens for place in places), origin


@pytest.mark.parametrize("prefix", ["", "merged-"])
@pytest.mark.parametrize("name", ["sequence", "every", "none", "document"])
def test_sample_has_the_text_of_the_documents_found(datasets: Datasets, cache: Path, name: str, prefix: str) -> None:
    folder = f"{prefix}{name}"
    dataset: SampleDataset = (
        datasets.documents(cache, folder) if name == "document" else SequenceDataset(datasets.source(folder))
    )
    found = find_origins([dataset], [(0, sample) for sample in range(len(dataset))])
    files, shared = set(), 0
    for sample, origin in enumerate(found):
        assert_holds(real_tokens(dataset, sample), origin, datasets.folder / "tokenizer")
        files |= {documents.input for documents in origin}
        shared += sum(documents.last - documents.first + 1 for documents in origin) > 1
        assert all(documents.left_out == 0 and not documents.at_least for documents in origin)
    assert len(files) == SHARDS
    assert 0 < shared < len(dataset)


def test_chunk_size_does_not_change_the_counts(datasets: Datasets, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = SequenceDataset(datasets.source("merged-sequence"))
    located = [(0, sample) for sample in range(0, len(dataset), 3)]
    expected = find_origins([dataset], located)
    monkeypatch.setattr(sample_origins, "_TOKENS_AT_ONCE", 7)
    assert find_origins([dataset], located) == expected


def test_origins_of_positions_in_a_blend_are_found(datasets: Datasets, cache: Path) -> None:
    parts = [SequenceDataset(datasets.source("merged-sequence", 0.5)), datasets.documents(cache)]
    parts[1].source = datasets.source("document", 0.5)
    data = TrainingData(parts, seed=3)
    located = [data.locate(position) for position in range(100, 140)]
    assert {dataset for dataset, _ in located} == {0, 1}
    for position, origin in zip(range(100, 140), find_origins(parts, located), strict=True):
        tokens = data(position)[:-1]
        assert_holds(tokens[tokens != data.pause_id].tolist(), origin, datasets.folder / "tokenizer")


def test_document_numbers_are_lower_bounds_if_ends_were_trimmed(datasets: Datasets) -> None:
    dataset = SequenceDataset(datasets.source("drop"))
    later = 0
    for sample, (documents,) in enumerate(find_origins([dataset], [(0, i) for i in range(len(dataset))])):
        stream = documents_in(documents.input, datasets.folder / "tokenizer")
        start = (documents.sequence - first_sequence(dataset.source, documents.input)) * SEQ_LENGTH
        first = next(i for i in range(len(stream)) if sum(map(len, stream[: i + 1])) > start)
        flat = [token for document in stream for token in document]
        tokens = real_tokens(dataset, sample)
        assert flat[start : start + len(tokens)] == tokens
        assert documents.first <= first
        assert documents.at_least
        later += documents.first < first
    assert later
    assert ", or later ones (sequence" in str(documents)


def first_sequence(source: DataFolder, path: str) -> int:
    shards = source.manifest.shards
    place = next(i for i, shard in enumerate(shards) if shard.input == path)
    return sum(shard.sequences for shard in shards[:place])


@pytest.fixture
def awkward(datasets: Datasets, tmp_path: Path) -> SequenceDataset:
    """A file with a broken record, a blank line, a document without text, and one longer than many sequences."""
    texts = ["A first document.", "", "Long. " * 20 * SEQ_LENGTH, "A third one.", *["And more of them."] * 200]
    lines = [json.dumps({"text": text}) for text in texts]
    lines[1:1] = ['{"text": 7}', "   "]
    path = tmp_path / "text" / "awkward.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    config = preprocess_config(
        input=(str(path),),
        tokenizer=datasets.folder / "tokenizer",
        output=tmp_path / "awkward",
        seq_length=SEQ_LENGTH,
        engine="serial",
        on_error="skip",
    )
    preprocess(config)
    manifest = load_dataset_manifest(config.output)
    return SequenceDataset(
        DataFolder(path=config.output, name="awkward", manifest=manifest, seq_length=SEQ_LENGTH, weight=None)
    )


def test_documents_left_out_are_reported_but_not_numbered(awkward: SequenceDataset, datasets: Datasets) -> None:
    last = len(awkward) - 1
    (documents,) = find_origins([awkward], [(0, last)])[0]
    assert_holds(real_tokens(awkward, last), (documents,), datasets.folder / "tokenizer")
    assert documents.left_out == 2
    assert "not counting 2 left out (sequence" in str(documents)


def test_long_document_fills_many_sequences(awkward: SequenceDataset) -> None:
    found = [documents for (documents,) in find_origins([awkward], [(0, i) for i in range(len(awkward))])]
    alone = [documents for documents in found if (documents.first, documents.last) == (1, 1)]
    assert len(alone) > 10
    assert (found[0].first, found[0].last) == (0, 1)


def test_text_and_json_name_file_documents_and_sequence(datasets: Datasets) -> None:
    dataset = SequenceDataset(datasets.source("sequence"))
    (documents,) = find_origins([dataset], [(0, 7)])[0]
    name = Path(documents.input).name
    numbers = f"documents {documents.first}-{documents.last}"
    numbers = f"document {documents.first}" if documents.first == documents.last else numbers
    assert str(documents) == f"{name} {numbers} (sequence 7 of {datasets.folder / 'sequence'})"
    assert json.loads(json.dumps(to_plain(documents)))["sequence"] == 7


def origins_in_a_group(datasets: Datasets, located: list[tuple[int, int]]) -> list[Origin]:
    dist.init_process_group("gloo")
    return find_origins_together([SequenceDataset(datasets.source(name)) for name in ("sequence", "none")], located)


def test_ranks_share_the_work_and_all_get_the_result(datasets: Datasets) -> None:
    located = [(1, 5), (0, 9), (0, 3), (1, 70), (0, 9)]
    parts = [SequenceDataset(datasets.source(name)) for name in ("sequence", "none")]
    assert run_distributed(origins_in_a_group, 2, datasets, located) == [find_origins(parts, located)] * 2


@pytest.fixture
def damaged(datasets: Datasets, tmp_path: Path) -> Datasets:
    """A copy of a dataset of sequences and of one of documents, with a foreign id at a few places of each."""
    for name in ("merged-sequence", "merged-document"):
        shutil.copytree(datasets.folder / name, tmp_path / name)
        path = tmp_path / name / "merged-00001-of-00002.bin"
        tokens = np.fromfile(path, np.uint16)
        tokens[FOREIGN_PLACES] = 60_000
        tokens.tofile(path)
    return Datasets(tmp_path)


FOREIGN_PLACES = [0, 5 * SEQ_LENGTH + 12, 900]
"""Tokens of the second file; the first is also the last target of the sequence before it, if that is of its shard."""


@pytest.mark.parametrize("name", ["merged-sequence", "merged-document"])
def test_id_beyond_the_vocabulary_is_reported_with_its_place(damaged: Datasets, cache: Path, name: str) -> None:
    documents = name == "merged-document"
    dataset: SampleDataset = damaged.documents(cache, name) if documents else SequenceDataset(damaged.source(name))
    stored = dataset.dataset if documents else dataset._stored
    places = set()
    for sample in range(len(dataset)):
        if 60_000 not in dataset[sample]:
            read_sample(dataset, sample)
            continue
        with pytest.raises(UserError) as refused:
            read_sample(dataset, sample)
        message = str(refused.value)
        assert message.startswith(f"{damaged.folder / name}/merged-00001-of-00002.bin")
        [(token, sequence)] = re.findall(r"id 60000 at token (\d+) of .*\(sequence (\d+) of", message)
        assert stored.get(int(sequence))[int(token)] == 60_000
        places.add((int(sequence), int(token)))
    assert len(places) == len(FOREIGN_PLACES)


def test_training_and_validation_data_refuse_a_foreign_id(damaged: Datasets) -> None:
    dataset = SequenceDataset(damaged.source("merged-sequence"))
    training, validation = TrainingData([dataset], seed=1), ValidationData(dataset, len(dataset))
    bad = {sample for sample in range(len(dataset)) if 60_000 in dataset[sample]}
    for data, samples in (
        (training, [training.locate(i)[1] for i in range(len(dataset))]),
        (validation, range(len(dataset))),
    ):
        found = set()
        for position, sample in enumerate(samples):
            try:
                data(position)
            except UserError:
                found.add(sample)
        assert found == bad


def test_negative_id_is_refused(datasets: Datasets) -> None:
    """Vocabularies of 65,500 tokens and more are stored as int32, whose damage may be negative."""

    class Negative(SequenceDataset):
        def __getitem__(self, index: int) -> np.ndarray:
            tokens = super().__getitem__(index).astype(np.int32)
            tokens[7] = -1
            return tokens

    with pytest.raises(UserError, match="id -1 at token 7 of the sequence of"):
        read_sample(Negative(datasets.source("sequence")), 3)
