"""A global batch holds the same samples under every layout, for sequences, documents and blends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pause_megatron.data.batch_loader import BatchLoader
from pause_megatron.data.batches import Batch
from pause_megatron.data.datasets import SequenceDataset
from pause_megatron.data.sample_order import TrainingData, ValidationData
from pause_megatron.data.training_sample import Sample
from tests.data.datasets import STRATEGIES, Datasets
from tests.data.test_sample_order import opened

PAUSE_ID = 2
GLOBAL_BATCH = 16


def own_batch(
    sample_at: Callable[[int], Sample], rank: int, size: int, *, micro_batch_size: int, start: int = 0, **inputs: Any
) -> Batch:
    loader = BatchLoader(
        pause_ids=range(PAUSE_ID, PAUSE_ID + 1),
        micro_batch_size=micro_batch_size,
        data_parallel_rank=rank,
        data_parallel_size=size,
        device=torch.device("cpu"),
        **inputs,
    )
    with closing(loader):
        return loader.load(sample_at, start, GLOBAL_BATCH)


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
        batches = [own_batch(walk, rank, size, micro_batch_size=micro_batch_size, start=start) for rank in range(size)]
        rows = (torch.cat([batch.tokens, batch.labels[..., -1:]], dim=-1).flatten(0, 1) for batch in batches)
        return sorted(row.tolist() for of_rank in rows for row in of_rank)

    one_rank = {start: global_batch(data, 1, 1, start) for start in (0, 4000)}
    assert one_rank[0] != one_rank[4000]
    assert all(len(batch) == GLOBAL_BATCH for batch in one_rank.values())
    assert global_batch(data, 2, 4, 0) == global_batch(data, 4, 2, 0) == one_rank[0]
    restarted = TrainingData(opened(datasets, cache, *names, weights=weights), seed=3)
    assert global_batch(restarted, 2, 8, 4000) == one_rank[4000]


def test_microbatch_is_its_samples(datasets: Datasets) -> None:
    dataset = SequenceDataset(datasets.source("sequence"))
    batch = own_batch(dataset.__getitem__, 0, 1, micro_batch_size=8)
    assert len(batch) == 2
    for number, microbatch in enumerate(batch):
        for row in range(8):
            sample = torch.from_numpy(dataset[number * 8 + row].astype(np.int64))
            assert torch.equal(microbatch.tokens[row], sample[:-1])
            assert torch.equal(microbatch.labels[row], sample[1:])
            assert torch.equal(microbatch.position_ids[row], torch.arange(len(sample) - 1))
            assert torch.equal(microbatch.loss_weights[row] > 0, sample[1:] != PAUSE_ID)
    assert torch.equal(batch.pause_runs > 0, batch.tokens == PAUSE_ID)
    assert batch.pause_runs.any()


@pytest.mark.parametrize("name", [*STRATEGIES, "blank"])
def test_targets_and_runs_of_pauses_are_those_of_the_data(datasets: Datasets, cache: Path, name: str) -> None:
    """Against a loop over the tokens of every sample, in the dataset's own types."""
    if name == "blank":
        sample_at: Callable[[int], Sample] = ValidationData(SequenceDataset(datasets.source("none")), limit=0)
    else:
        [dataset] = opened(datasets, cache, name)
        sample_at = dataset.__getitem__
    batch = own_batch(sample_at, 0, 1, micro_batch_size=4)
    for row in range(GLOBAL_BATCH):
        tokens, run = sample_at(row).tolist(), 0
        has_loss = [label != PAUSE_ID for label in tokens[1:]]
        runs = [run := run + 1 if token == PAUSE_ID else 0 for token in tokens[:-1]]
        assert batch.is_target.flatten(0, 1)[row].tolist() == has_loss
        assert batch.pause_runs.flatten(0, 1)[row].tolist() == runs


@pytest.mark.parametrize("name", ["sequence", "every", "document", "none"])
def test_pauses_can_be_read_as_the_token_before_them(datasets: Datasets, cache: Path, name: str) -> None:
    """Targets, loss and runs of pauses stay; pauses before the first real token of a sample stay too."""
    [dataset] = opened(datasets, cache, name)
    pausing = own_batch(dataset.__getitem__, 0, 1, micro_batch_size=4)
    repeating = own_batch(dataset.__getitem__, 0, 1, micro_batch_size=4, repeats_tokens=True)
    for read, stored in zip(
        repeating.tokens.flatten(0, 1).tolist(), pausing.tokens.flatten(0, 1).tolist(), strict=True
    ):
        before = PAUSE_ID
        for position, token in enumerate(stored):
            before = before if token == PAUSE_ID else token
            assert read[position] == before
    for part in ("labels", "is_target", "pause_runs"):
        assert torch.equal(getattr(repeating, part), getattr(pausing, part))
    assert torch.equal(repeating.tokens, pausing.tokens) == (name == "none")


@pytest.mark.parametrize("name", ["sequence", "every", "document", "none"])
def test_pauses_can_be_read_as_the_tokens_of_a_filler(datasets: Datasets, cache: Path, name: str) -> None:
    """The i-th pause of a run is the i-th token of the filler, from its start again after the last one."""
    [dataset] = opened(datasets, cache, name)
    pausing = own_batch(dataset.__getitem__, 0, 1, micro_batch_size=4)
    filled = own_batch(dataset.__getitem__, 0, 1, micro_batch_size=4, filler=(501, 502))
    for read, stored in zip(filled.tokens.flatten(0, 1).tolist(), pausing.tokens.flatten(0, 1).tolist(), strict=True):
        run = 0
        for position, token in enumerate(stored):
            run = run + 1 if token == PAUSE_ID else 0
            assert read[position] == ((501, 502)[(run - 1) % 2] if run else token)
    for part in ("labels", "is_target", "pause_runs"):
        assert torch.equal(getattr(filled, part), getattr(pausing, part))
    assert torch.equal(filled.tokens, pausing.tokens) == (name == "none")


@pytest.mark.parametrize("name", ["sequence", "every", "document", "none"])
def test_pauses_can_share_the_position_of_the_token_before_them(datasets: Datasets, cache: Path, name: str) -> None:
    """Only positions change: each is the number of real tokens before, and a pause has that of the last one."""
    [dataset] = opened(datasets, cache, name)
    shifting = own_batch(dataset.__getitem__, 0, 1, micro_batch_size=4)
    sharing = own_batch(dataset.__getitem__, 0, 1, micro_batch_size=4, shares_positions=True)
    for shifted, shared in zip(shifting, sharing, strict=True):
        rows = zip(shared.tokens.tolist(), shifted.position_ids.tolist(), shared.position_ids.tolist(), strict=True)
        for tokens, positions, found in rows:
            real = -1
            expected = [max(0, real := real + (token != PAUSE_ID)) for token in tokens]
            assert found == expected
            assert positions == list(range(len(tokens)))
        for part in ("tokens", "labels", "loss_weights"):
            assert torch.equal(getattr(shared, part), getattr(shifted, part))


def test_loss_weights_sum_up_to_the_share_of_valid_targets(datasets: Datasets) -> None:
    batch = own_batch(SequenceDataset(datasets.source("sequence")).__getitem__, 0, 2, micro_batch_size=4)
    total = sum(float(microbatch.loss_weights.sum()) for microbatch in batch)
    assert total == pytest.approx(float(batch.is_target.float().mean()))


def test_positions_after_the_end_carry_no_loss(datasets: Datasets) -> None:
    walk = ValidationData(SequenceDataset(datasets.source("none")), limit=10)
    batch = own_batch(walk, 0, 1, micro_batch_size=8)
    assert [bool(row.any()) for row in batch.is_target.flatten(0, 1)] == [True] * 10 + [False] * 6
