"""Stored sequences become samples one to one, in an order that no layout changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.data.batches import Microbatch, SampleOrder, microbatches, stored_order
from pause_megatron.data.sequences import SequenceDataset
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.training import train_tokenizer
from tests.chain import SEQ_LENGTH, texts, write_dataset, write_text_and_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a tokenizer, and datasets ``none``, ``carry`` and ``drop``."""
    folder = tmp_path_factory.mktemp("chain")
    write_text_and_tokenizer(folder)
    write_dataset(folder, "none", pauses="none")
    write_dataset(folder, "carry")
    write_dataset(folder, "drop", trimmed="drop")
    return folder


@pytest.mark.parametrize("name", ["none", "carry"])
def test_labels_are_the_next_tokens_across_sequences(chain: Path, name: str) -> None:
    dataset = SequenceDataset(chain / name)
    first_shard = dataset.manifest.shards[0].sequences
    stream = np.concatenate([dataset[index][0] for index in range(first_shard)])
    labels = np.concatenate([dataset[index][1] for index in range(first_shard)])
    assert np.array_equal(labels[:-1], stream[1:])
    assert labels[-1] == dataset.manifest.pause_id  # nothing follows: the target is dropped


def test_dropped_tail_leaves_the_last_target_without_loss(chain: Path) -> None:
    dataset = SequenceDataset(chain / "drop")
    for index in (0, 1, len(dataset) - 1):
        tokens, labels = dataset[index]
        assert np.array_equal(labels[:-1], tokens[1:])
        assert labels[-1] == dataset.manifest.pause_id


def test_samples_of_all_shards_are_counted_once(chain: Path) -> None:
    dataset = SequenceDataset(chain / "carry")
    assert len(dataset) == sum(shard.sequences for shard in dataset.manifest.shards)
    assert len(dataset.manifest.shards) == 2
    second = dataset.manifest.shards[0].sequences
    assert not np.array_equal(dataset[second - 1][0], dataset[second][0])
    assert dataset[len(dataset) - 1][0].shape == (SEQ_LENGTH,)


def test_loss_mask_is_zero_exactly_where_the_label_is_pause(chain: Path) -> None:
    dataset = SequenceDataset(chain / "carry")
    batch = own_batches(dataset, 0, 1, micro_batch_size=8)[0]
    assert torch.equal(batch.loss_mask, (batch.labels != dataset.manifest.pause_id).float())
    assert batch.pauses == int((batch.tokens == dataset.manifest.pause_id).sum()) > 0
    assert 0 < int((batch.loss_mask == 0).sum()) < batch.loss_mask.numel() // 4


def own_batches(
    dataset: SequenceDataset, rank: int, size: int, *, micro_batch_size: int, start: int = 0, end: int | None = None
) -> list[Microbatch]:
    assert 16 % (size * micro_batch_size) == 0
    return list(
        microbatches(
            dataset,
            SampleOrder(len(dataset), seed=3) if end is None else stored_order,
            start=start,
            num_microbatches=16 // (size * micro_batch_size),
            micro_batch_size=micro_batch_size,
            data_parallel_rank=rank,
            data_parallel_size=size,
            device=CPU,
            end=end,
        )
    )


def test_global_batch_does_not_depend_on_the_layout(chain: Path) -> None:
    dataset = SequenceDataset(chain / "carry")

    def global_batch(size: int, micro_batch_size: int) -> list[list[int]]:
        batches = [
            batch
            for rank in range(size)
            for batch in own_batches(dataset, rank, size, micro_batch_size=micro_batch_size)
        ]
        return sorted(sequence.tolist() for batch in batches for sequence in batch.tokens)

    alone = global_batch(1, 1)
    assert len(alone) == 16
    assert global_batch(2, 4) == alone
    assert global_batch(4, 2) == alone


def test_positions_after_the_end_carry_no_loss(chain: Path) -> None:
    dataset = SequenceDataset(chain / "none")
    batches = own_batches(dataset, 0, 1, micro_batch_size=8, end=10)
    assert [bool(row.any()) for batch in batches for row in batch.loss_mask] == [True] * 10 + [False] * 6


def test_order_visits_every_sample_once_an_epoch_and_shuffles_anew() -> None:
    order = SampleOrder(50, seed=1)
    first, second = [order(i) for i in range(50)], [order(i) for i in range(50, 100)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert [SampleOrder(50, seed=1)(i) for i in (70, 3)] == [second[20], first[3]]
    assert [SampleOrder(50, seed=2)(i) for i in range(50)] != first


def test_half_written_dataset_and_foreign_tokenizer_are_refused(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dataset"):
        SequenceDataset(tmp_path)
    other = TokenizerConfig(input=texts(chain, "train"), output=tmp_path / "other", vocab_size=400)
    train_tokenizer(other)
    with pytest.raises(UserError, match="another tokenizer"):
        SequenceDataset(chain / "none").check_tokenizer(PauseTokenizer.load(other.output))


def test_truncated_shard_is_refused(chain: Path, tmp_path: Path) -> None:
    for path in (chain / "none").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    name = json.loads((tmp_path / "dataset.json").read_text())["shards"][0]["name"]
    content = (tmp_path / f"{name}.bin").read_bytes()
    (tmp_path / f"{name}.bin").write_bytes(content[:-2])
    with pytest.raises(UserError, match=rf"{name}\.bin"):
        SequenceDataset(tmp_path)
