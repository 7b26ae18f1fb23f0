"""A folder's sequences equal those that plain Megatron-core reads, in any number of files."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from pause_megatron.data.stored_sequences import StoredSequences
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import stored_files
from tests.data.datasets import STRATEGIES, Datasets
from tests.distributed import run_distributed


def read_by_megatron(datasets: Datasets, name: str) -> list[list[int]]:
    """All sequences of a dataset as plain Megatron-core reads them, file by file."""
    source = datasets.source(name)
    files = [IndexedDataset(str(source.path / file.name)) for file in stored_files(source.manifest)]
    return [sequence.tolist() for file in files for sequence in file]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_plain_megatron_core_reads_the_same_sequences_merged_or_not(datasets: Datasets, strategy: str) -> None:
    expected = read_by_megatron(datasets, strategy)
    assert read_by_megatron(datasets, f"merged-{strategy}") == expected
    assert len(expected) == datasets.source(strategy).manifest.sequences
    for name in (strategy, f"merged-{strategy}"):
        source = datasets.source(name)
        stored = StoredSequences(source.path, source.manifest)
        assert [stored.get(index).tolist() for index in range(len(stored))] == expected
        assert stored.lengths().tolist() == [len(sequence) for sequence in expected]


def test_megatrons_builder_joins_the_files_to_the_merged_dataset(datasets: Datasets, tmp_path: Path) -> None:
    source = datasets.source("document")
    builder = IndexedDatasetBuilder(str(tmp_path / "joined.bin"), dtype=np.uint16)
    for file in stored_files(source.manifest):
        builder.add_index(str(source.path / file.name))
    builder.finalize(str(tmp_path / "joined.idx"))
    joined = IndexedDataset(str(tmp_path / "joined"))
    assert [document.tolist() for document in joined] == read_by_megatron(datasets, "merged-document")


def test_part_of_a_sequence_is_read(datasets: Datasets) -> None:
    source = datasets.source("none")
    stored = StoredSequences(source.path, source.manifest)
    last = len(stored) - 1
    assert stored.get(last, 3, 2).tolist() == stored.get(last).tolist()[3:5]


def test_files_are_opened_when_they_are_read(datasets: Datasets) -> None:
    source = datasets.source("none")
    before = open_files()
    stored = StoredSequences(source.path, source.manifest)
    assert open_files() == before
    stored.get(0)
    one_file = open_files() - before
    assert 0 < one_file <= 3
    stored.get(len(stored) - 1)
    assert open_files() - before == 2 * one_file


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def read_all_with_few_files(folder: Datasets, soft: int, hard: int) -> str:
    """Read a dataset with limits of ``soft`` and ``hard`` more open files; return the error, or an empty string."""
    used = open_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + soft, used + hard))
    source = folder.source("none")
    try:
        stored = StoredSequences(source.path, source.manifest)
        for index in range(len(stored)):
            stored.get(index)
    except UserError as error:
        return str(error)
    return ""


def test_open_file_limit_is_raised_to_the_hard_limit(datasets: Datasets) -> None:
    assert run_distributed(read_all_with_few_files, 1, datasets, 5, 50) == [""]
    (error,) = run_distributed(read_all_with_few_files, 1, datasets, 5, 5)
    assert "Too many open files; if its 3 pairs of files are too many, merge them" in error
