"""Stored sequences of a fixed length become samples one to one, with the right label at the last position."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pause_megatron.data.datasets import SequenceDataset
from tests.chain import SEQ_LENGTH
from tests.data.datasets import FIXED_LENGTH, SHARDS, Datasets


def shard_starts(dataset: SequenceDataset) -> list[int]:
    """First sample of each shard, and the end of the last shard."""
    starts = [0]
    for shard in dataset.source.manifest.shards:
        starts.append(starts[-1] + shard.sequences)
    return starts


@pytest.mark.parametrize("name", ["sequence", "every", "none", "merged-sequence", "merged-every", "merged-none"])
def test_labels_are_the_next_tokens_across_the_sequences_of_a_shard(datasets: Datasets, name: str) -> None:
    dataset = SequenceDataset(datasets.source(name))
    borders = list(pairwise(shard_starts(dataset)))
    assert len(borders) == SHARDS
    for start, end in borders:
        stream = np.concatenate([dataset[index][:-1] for index in range(start, end)])
        labels = np.concatenate([dataset[index][1:] for index in range(start, end)])
        assert np.array_equal(labels[:-1], stream[1:])
        assert labels[-1] == dataset.source.manifest.pause_id  # the text ends: no loss


@pytest.mark.parametrize("name", ["drop", "merged-drop"])
def test_last_label_carries_no_loss_if_tails_were_dropped(datasets: Datasets, name: str) -> None:
    dataset = SequenceDataset(datasets.source(name))
    assert all(dataset[index][-1] == dataset.source.manifest.pause_id for index in range(len(dataset)))


@pytest.mark.parametrize("name", FIXED_LENGTH)
def test_merging_changes_no_sample(datasets: Datasets, name: str) -> None:
    shards, merged = SequenceDataset(datasets.source(name)), SequenceDataset(datasets.source(f"merged-{name}"))
    assert len(shards) == len(merged) == shards.source.num_samples
    for index in range(len(shards)):
        assert np.array_equal(shards[index], merged[index])


def test_sample_has_one_token_more_than_a_sequence(datasets: Datasets) -> None:
    dataset = SequenceDataset(datasets.source("sequence"))
    assert {len(dataset[index]) for index in range(100)} == {SEQ_LENGTH + 1}
