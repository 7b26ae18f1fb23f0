"""A global batch holds the same samples under every layout, for sequences, documents and blends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pause_megatron.data.batches import Microbatch, microbatches
from pause_megatron.data.datasets import SequenceDataset
from pause_megatron.data.sample_order import TrainingData, ValidationData
from pause_megatron.data.training_sample import Sample
from tests.data.datasets import Datasets
from tests.data.test_sample_order import opened

CPU = torch.device("cpu")
GLOBAL_BATCH = 16


def own_batches(
    sample_at: Callable[[int], Sample], rank: int, size: int, *, micro_batch_size: int, start: int = 0
) -> list[Microbatch]:
    assert GLOBAL_BATCH % (size * micro_batch_size) == 0
    return list(
        microbatches(
            sample_at,
            pause_id=2,
            start=start,
            num_microbatches=GLOBAL_BATCH // (size * micro_batch_size),
            micro_batch_size=micro_batch_size,
            data_parallel_rank=rank,
            data_parallel_size=size,
            device=CPU,
        )
    )


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("sequence",), ()),
        (("document",), ()),
        (("document", "none"), ()),
        (("document", "none", "every"), (0.5, 0.3, 0.2)),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_global_batch_does_not_depend_on_the_layout_or_on_a_restart(
    datasets: Datasets, cache: Path, names: tuple[str, ...], weights: tuple[float, ...]
) -> None:
    data = TrainingData(opened(datasets, cache, *names, weights=weights), seed=3)

    def global_batch(walk: TrainingData, size: int, micro_batch_size: int, start: int) -> list[list[int]]:
        batches = [
            batch
            for rank in range(size)
            for batch in own_batches(walk, rank, size, micro_batch_size=micro_batch_size, start=start)
        ]
        return sorted(torch.cat([row.tokens, row.labels], dim=1).flatten().tolist() for row in single_rows(batches))

    one_rank = {start: global_batch(data, 1, 1, start) for start in (0, 4000)}
    assert one_rank[0] != one_rank[4000]
    assert all(len(batch) == GLOBAL_BATCH for batch in one_rank.values())
    assert global_batch(data, 2, 4, 0) == global_batch(data, 4, 2, 0) == one_rank[0]
    restarted = TrainingData(opened(datasets, cache, *names, weights=weights), seed=3)
    assert global_batch(restarted, 2, 8, 4000) == one_rank[4000]


def single_rows(batches: list[Microbatch]) -> list[Microbatch]:
    return [
        Microbatch(
            tokens=batch.tokens[row : row + 1],
            labels=batch.labels[row : row + 1],
            loss_mask=batch.loss_mask[row : row + 1],
            position_ids=batch.position_ids[row : row + 1],
            pause_runs=batch.pause_runs[row : row + 1],
        )
        for batch in batches
        for row in range(len(batch.tokens))
    ]


def test_microbatch_is_its_samples(datasets: Datasets) -> None:
    dataset = SequenceDataset(datasets.source("sequence"))
    batch = own_batches(dataset.__getitem__, 0, 1, micro_batch_size=8)[1]
    for row, index in enumerate(range(8, 16)):
        for key, value in dataset[index].items():
            assert torch.equal(getattr(batch, key)[row], value)
    assert torch.equal(batch.pause_runs > 0, batch.tokens == 2)
    assert batch.pause_runs.any()


def test_positions_after_the_end_carry_no_loss(datasets: Datasets) -> None:
    walk = ValidationData(SequenceDataset(datasets.source("none")), limit=10)
    batches = own_batches(walk, 0, 1, micro_batch_size=8)
    assert [bool(row.any()) for batch in batches for row in batch.loss_mask] == [True] * 10 + [False] * 6
