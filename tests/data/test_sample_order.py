"""The order of samples is a function of seed and position, for one folder, several folders, and weighted blends."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pause_megatron.data.datasets import SequenceDataset
from pause_megatron.data.sample_order import BlendOrder, SampleOrder, TrainingData, ValidationData, whole_turns
from pause_megatron.data.training_sample import SampleDataset
from tests.data.datasets import Datasets


def opened(datasets: Datasets, cache: Path, *names: str, weights: tuple[float, ...] = ()) -> list[SampleDataset]:
    found: list[SampleDataset] = []
    for index, name in enumerate(names):
        source = datasets.source(name, weights[index] if weights else None)
        if source.manifest.strategy == "document":
            documents = datasets.documents(cache, name)
            documents.source = replace(documents.source, weight=source.weight)
            found.append(documents)
        else:
            found.append(SequenceDataset(source))
    return found


def test_order_visits_every_sample_once_an_epoch_and_shuffles_anew() -> None:
    order = SampleOrder(50, 1)
    first, second = [order(i) for i in range(50)], [order(i) for i in range(50, 100)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert [SampleOrder(50, 1)(i) for i in (70, 3)] == [second[20], first[3]]
    assert [SampleOrder(50, 2)(i) for i in range(50)] != first


def test_threads_that_share_an_order_in_different_epochs_do_not_disturb_each_other() -> None:
    shared, size = SampleOrder(97, 1), 97
    expected = [SampleOrder(size, 1)(position) for position in range(2 * size)]

    def walk(epoch: int) -> list[int]:
        return [shared(epoch * size + offset) for _ in range(30) for offset in range(size)]

    with ThreadPoolExecutor() as threads:
        first, second = threads.map(walk, (0, 1))
    assert first == expected[:size] * 30
    assert second == expected[size:] * 30


def test_epoch_of_folders_without_weights_is_every_sample_once(datasets: Datasets, cache: Path) -> None:
    data = TrainingData(opened(datasets, cache, "document", "none", "every"), seed=1)
    epoch = [data.locate(position) for position in range(len(data))]
    expected = [(i, j) for i, name in enumerate(("document", "none", "every")) for j in range(samples(datasets, name))]
    assert sorted(epoch) == expected
    assert sorted(data.locate(position) for position in range(len(data), 2 * len(data))) == expected
    shares = Counter(dataset for dataset, _ in epoch[: len(data) // 4])
    assert shares[0] / shares[2] == pytest.approx(samples(datasets, "document") / samples(datasets, "every"), rel=0.15)


def samples(datasets: Datasets, name: str) -> int:
    return datasets.source(name).num_samples


def test_merging_changes_no_position(datasets: Datasets, cache: Path) -> None:
    names, weights = ("document", "sequence"), (0.7, 0.3)
    for chosen in ((), weights):
        shards = TrainingData(opened(datasets, cache, *names, weights=chosen), seed=1)
        merged = TrainingData(opened(datasets, cache, *(f"merged-{name}" for name in names), weights=chosen), seed=1)
        for position in range(0, 5000, 77):
            assert np.array_equal(shards(position), merged(position))


def test_weights_hold_at_every_position_and_no_sample_repeats_before_its_folder_is_used_up() -> None:
    sizes, weights = [40, 1000, 7], [0.25, 0.7, 0.05]
    order = BlendOrder(sizes, weights, seed=3)
    walk = [order(position) for position in range(2000)]
    for dataset, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        seen = 0
        for position, (found, _) in enumerate(walk):
            seen += found == dataset
            assert abs(seen - weight * (position + 1)) < 1 + 1e-9
        own = [index for found, index in walk if found == dataset]
        for start in range(0, len(own) - size, size):
            assert sorted(own[start : start + size]) == list(range(size))


def test_sample_depends_on_the_position_not_on_earlier_reads() -> None:
    sizes, weights = [40, 1000], [2.0, 1.0]
    order = BlendOrder(sizes, weights, seed=3)
    walk = [order(position) for position in range(500)]
    assert [BlendOrder(sizes, weights, seed=3)(position) for position in (499, 0, 250)] == [
        walk[499],
        walk[0],
        walk[250],
    ]
    assert [BlendOrder(sizes, weights, seed=4)(position) for position in range(500)] != walk


def test_datasets_of_equal_length_have_different_orders() -> None:
    order = BlendOrder([100, 100], [1.0, 1.0], seed=3)
    walk = [order(position) for position in range(200)]
    assert [index for dataset, index in walk if dataset == 0] != [index for dataset, index in walk if dataset == 1]


def test_turns_are_the_smallest_integers_in_proportion_to_the_weights() -> None:
    assert whole_turns([0.7, 0.3]) == whole_turns([70, 30]) == whole_turns([0.07, 0.03]) == [7, 3]
    assert whole_turns([5.0]) == [1]
    assert whole_turns([2.0, 1.0]) == [2, 1]
    assert whole_turns([0.999999, 0.000001]) == [999_999, 1]
    assert whole_turns([1 / 3, 1 / 3, 1 / 3]) == [1, 1, 1]
    assert whole_turns([1.0, 1e-12]) == [1_000_000, 1]


def test_validation_samples_are_in_stored_order_then_blank(datasets: Datasets) -> None:
    dataset = SequenceDataset(datasets.source("sequence"))
    walk = ValidationData(dataset, limit=10)
    assert len(walk) == 10
    for position in range(10):
        assert np.array_equal(walk(position), dataset[position])
    assert set(walk(10)) == {dataset.source.manifest.pause_id}
    assert len(walk(10)) == len(dataset[0])
    assert len(ValidationData(dataset, limit=10**9)) == len(dataset)
