"""The record of the training data that checkpoints, exports and reports pass on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.datasets import SequenceDataset
from pause_megatron.data.sample_order import TrainingData
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.records.pretraining import TrainingDataRecord
from pause_megatron.training.state import describe_data
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_text_and_tokenizer(folder)
    also = tuple(
        f"{settings}:{folder / name}" for name, settings in (("fixed", "sequence,rates=fixed"), ("plain", "none"))
    )
    write_dataset(folder, "drawn", pause_rate=0.2, rates="drawn", also=also)
    return folder


def described(folder: Path, *names: str) -> TrainingDataRecord:
    manifests = {name: load_dataset_manifest(folder / name) for name in names}
    folders = [
        DataFolder(path=folder / name, name=name, manifest=manifest, seq_length=SEQ_LENGTH, weight=None)
        for name, manifest in manifests.items()
    ]
    return describe_data(TrainingData([SequenceDataset(one) for one in folders], seed=0))


def test_drawn_rates_are_recorded(folder: Path) -> None:
    kinds = {
        names: described(folder, *names).rates
        for names in (("drawn",), ("fixed",), ("plain",), ("drawn", "plain"), ("drawn", "fixed"))
    }
    assert list(kinds.values()) == ["drawn", None, None, "drawn", "drawn+fixed"]
    assert described(folder, "drawn").pause_rate == 0.2
