"""Stored sequences of a fixed length become samples one to one, with the right label at the last position."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

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
        stream = torch.cat([dataset[index]["tokens"] for index in range(start, end)])
        labels = torch.cat([dataset[index]["labels"] for index in range(start, end)])
        assert torch.equal(labels[:-1], stream[1:])
        assert labels[-1] == dataset.source.manifest.pause_id  # the text ends: no loss


@pytest.mark.parametrize("name", ["drop", "merged-drop"])
def test_last_position_has_no_loss_if_tails_were_dropped(datasets: Datasets, name: str) -> None:
    dataset = SequenceDataset(datasets.source(name))
    for index in range(len(dataset)):
        sample = dataset[index]
        assert torch.equal(sample["labels"][:-1], sample["tokens"][1:])
        assert sample["labels"][-1] == dataset.source.manifest.pause_id
        assert sample["loss_mask"][-1] == 0


@pytest.mark.parametrize("name", FIXED_LENGTH)
def test_merging_changes_no_sample(datasets: Datasets, name: str) -> None:
    shards, merged = SequenceDataset(datasets.source(name)), SequenceDataset(datasets.source(f"merged-{name}"))
    assert len(shards) == len(merged) == shards.source.num_samples
    for index in range(len(shards)):
        for key, value in shards[index].items():
            assert torch.equal(value, merged[index][key])


def test_loss_mask_is_zero_exactly_where_the_label_is_pause(datasets: Datasets) -> None:
    dataset = SequenceDataset(datasets.source("sequence"))
    pause_id = dataset.source.manifest.pause_id
    dropped = 0
    for index in range(100):
        sample = dataset[index]
        assert torch.equal(sample["loss_mask"], (sample["labels"] != pause_id).float())
        assert sample["position_ids"].tolist() == list(range(SEQ_LENGTH))
        dropped += int((sample["loss_mask"] == 0).sum())
    assert 0 < dropped < 100 * SEQ_LENGTH // 4
