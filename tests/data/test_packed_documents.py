"""Packed documents have the samples of Megatron-core's GPTDataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.data.packed_documents import DocumentDataset, dataset_tokenizer
from pause_megatron.preprocess.dataset_manifest import stored_files
from pause_megatron.preprocess.merge import merge_datasets
from tests.chain import SEQ_LENGTH
from tests.data.datasets import Datasets

SEED = 5


def plain_megatron(datasets: Datasets, name: str, folder: Path) -> GPTDataset | BlendedDataset:
    """The same documents through plain Megatron-core; several files become a blend by size."""
    source = datasets.source(name)
    prefixes = []
    for file in stored_files(source.manifest):  # links, because Megatron-core puts its cache next to the files
        for suffix in (".bin", ".idx"):
            (folder / f"{file.name}{suffix}").symlink_to(source.path / f"{file.name}{suffix}")
        prefixes.append(str(folder / file.name))
    config = GPTDatasetConfig(
        random_seed=SEED,
        sequence_length=SEQ_LENGTH,
        blend=(prefixes, None),
        split="1",
        tokenizer=dataset_tokenizer(source.manifest),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, [None, None, None], lambda: True, config).build()[0]


@pytest.fixture(scope="module")
def dataset(datasets: Datasets, cache: Path) -> DocumentDataset:
    return datasets.documents(cache, seed=SEED)


@pytest.fixture(scope="module")
def stored_order(datasets: Datasets, cache: Path) -> DocumentDataset:
    return datasets.documents(cache, seed=None)


def stream_of(datasets: Datasets, name: str = "document") -> np.ndarray:
    """All tokens of a dataset in stored order."""
    source = datasets.source(name)
    return np.concatenate(
        [np.fromfile(source.path / f"{file.name}.bin", np.uint16) for file in stored_files(source.manifest)]
    )


def test_samples_are_those_of_plain_megatron_core(datasets: Datasets, cache: Path, tmp_path: Path) -> None:
    merge_datasets(MergeDatasetsConfig(input=(datasets.folder / "document",), output=datasets.folder / "one-file"))
    ours, plain = datasets.documents(cache, "one-file", SEED), plain_megatron(datasets, "one-file", tmp_path)
    assert np.array_equal(ours.document_index, plain.document_index)
    assert np.array_equal(ours.sample_index, plain.sample_index)
    assert len(ours) == len(plain) == ours.source.num_samples
    for index in range(len(plain)):
        sample, expected = ours[int(plain.shuffle_index[index])], plain[index]
        assert np.array_equal(sample[:-1], expected["tokens"])
        assert np.array_equal(sample[1:], expected["labels"])


def test_blend_of_shards_holds_the_documents_of_the_merged_dataset(datasets: Datasets, tmp_path: Path) -> None:
    """Megatron-core's blend of three shards, and the merged dataset, document by document."""
    blend = plain_megatron(datasets, "document", tmp_path)
    assert isinstance(blend, BlendedDataset)
    merged = datasets.source("merged-document")
    eod = merged.manifest.eod_id
    expected = Counter(documents_in(stream_of(datasets, "merged-document"), eod))
    found: Counter[tuple[int, ...]] = Counter()
    cut = 0
    for part in blend.datasets:  # in packing order, so that documents cut by samples are complete again
        order = np.argsort(part.shuffle_index)
        packed = torch.cat([part[int(index)]["tokens"] for index in order]).numpy()
        whole = documents_in(packed, eod)
        cut += len(part.document_index) - len(whole)
        found.update(whole)
    assert not found - expected
    assert sum((expected - found).values()) == cut <= 3 * 2  # the last incomplete sample of each shard is not read
    drawn = Counter(zip(blend.dataset_index.tolist(), blend.dataset_sample_index.tolist(), strict=True))
    assert drawn == Counter((i, j) for i, part in enumerate(blend.datasets) for j in range(len(part)))


def documents_in(stream: np.ndarray, eod: int) -> list[tuple[int, ...]]:
    """The complete documents of a token stream that begins with a document."""
    ends = np.flatnonzero(stream == eod) + 1
    return [tuple(document.tolist()) for document in np.split(stream, ends)[:-1]]


def test_merging_changes_no_sample(datasets: Datasets, dataset: DocumentDataset, cache: Path) -> None:
    merged = datasets.documents(cache, "merged-document", SEED)
    assert len(merged) == len(dataset)
    for index in range(len(dataset)):
        assert np.array_equal(merged[index], dataset[index])


def test_every_document_is_packed_once(datasets: Datasets, dataset: DocumentDataset) -> None:
    eod = dataset.source.manifest.eod_id
    packed = np.concatenate([dataset[index][:-1] for index in range(len(dataset))])
    whole = documents_in(packed, eod)
    assert not Counter(whole) - Counter(documents_in(stream_of(datasets), eod))
    assert len(dataset.document_index) - len(whole) <= 2  # the last incomplete sample is not read
    assert whole != documents_in(stream_of(datasets), eod)[: len(whole)]  # shuffled


def test_labels_are_the_next_tokens_across_samples(dataset: DocumentDataset) -> None:
    tokens = np.concatenate([dataset[index][:-1] for index in range(len(dataset))])
    labels = np.concatenate([dataset[index][1:] for index in range(len(dataset))])
    assert np.array_equal(labels[:-1], tokens[1:])


def test_validation_documents_are_in_stored_order(datasets: Datasets, stored_order: DocumentDataset) -> None:
    stream = stream_of(datasets)
    tokens = np.concatenate([stored_order[index][:-1] for index in range(len(stored_order))])
    labels = np.concatenate([stored_order[index][1:] for index in range(len(stored_order))])
    assert np.array_equal(tokens, stream[: len(tokens)])
    assert np.array_equal(labels, stream[1 : len(labels) + 1])
    assert len(stream) - 1 - len(labels) < SEQ_LENGTH


def test_pauses_stay_tokens(dataset: DocumentDataset) -> None:
    pause_id = dataset.source.manifest.pause_id
    pauses = sum(int((dataset[index][:-1] == pause_id).sum()) for index in range(len(dataset)))
    assert pauses > 0.08 * len(dataset) * SEQ_LENGTH


def test_changing_a_sample_changes_no_other(datasets: Datasets, cache: Path) -> None:
    dataset = datasets.documents(cache, seed=SEED)
    first = dataset[0].copy()
    dataset[7][:] = 0
    assert np.array_equal(dataset[0], first)
    assert np.array_equal(dataset[7], datasets.documents(cache, seed=SEED)[7])
