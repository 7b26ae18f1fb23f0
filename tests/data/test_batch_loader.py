"""Batches are read ahead in a thread: the same samples, and errors reach the caller."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from pause_megatron.data.batch_loader import BatchLoader
from pause_megatron.data.training_sample import Sample
from pause_megatron.errors import UserError

PAUSE_ID = 2
SIZE = 8
"""Sequences of a global batch."""


class Samples:
    """Sample ``i`` is i + 10, i + 10, ...; records who read what."""

    seq_length = 4

    def __init__(self) -> None:
        self.read: list[int] = []
        self.threads: set[int] = set()
        self.broken_from = 10**9

    def __call__(self, position: int) -> Sample:
        if position >= self.broken_from:
            raise UserError(f"data/pause: no sample {position}")
        self.read.append(position)
        self.threads.add(threading.get_ident())
        return np.full(5, position + 10, np.uint16)


def loader(rank: int = 0, ranks: int = 1) -> BatchLoader:
    return BatchLoader(
        pause_ids=range(PAUSE_ID, PAUSE_ID + 1),
        micro_batch_size=2,
        data_parallel_rank=rank,
        data_parallel_size=ranks,
        device=torch.device("cpu"),
    )


def test_announced_batch_is_read_by_the_thread_before_it_is_loaded() -> None:
    samples = Samples()
    with closing(loader()) as batches:
        batches.announce(samples, 8, SIZE)
        first = batches.load(samples, 0, SIZE)  # read after the announced one, by the same thread
        assert samples.read == [*range(8, 16), *range(8)]
        second = batches.load(samples, 8, SIZE)
        assert samples.read == [*range(8, 16), *range(8)]
        assert samples.threads.isdisjoint({threading.get_ident()})
    assert first.tokens[..., 0].tolist() == [[10, 11], [12, 13], [14, 15], [16, 17]]
    assert second.tokens[..., 0].tolist() == [[18, 19], [20, 21], [22, 23], [24, 25]]
    assert first.tokens.dtype == torch.int64


def test_reading_ahead_changes_no_batch_although_another_dataset_is_read_between() -> None:
    training, held_out = Samples(), Samples()
    with closing(loader(rank=1, ranks=2)) as batches:
        batches.announce(training, 16, SIZE)
        between = batches.load(held_out, 16, SIZE)
        announced = batches.load(training, 16, SIZE)
    with closing(loader(rank=1, ranks=2)) as batches:
        plain = batches.load(training, 16, SIZE)
    assert torch.equal(announced.tokens, plain.tokens)
    assert torch.equal(between.tokens, plain.tokens)
    assert plain.tokens[..., 0].tolist() == [[28, 29], [32, 33]]


def test_error_in_the_thread_reaches_the_caller_with_its_text_and_the_loader_stays_usable() -> None:
    def broken(position: int) -> Sample:
        raise UserError(f"data/pause: no sample {position}")

    samples = Samples()
    with closing(loader()) as batches:
        batches.announce(broken, 3, SIZE)
        assert len(batches.load(samples, 0, SIZE)) == 4
        with pytest.raises(UserError, match="data/pause: no sample 3"):
            batches.load(broken, 3, SIZE)
        assert len(batches.load(samples, 8, SIZE)) == 4


def test_batch_that_cannot_be_read_is_blank_beside_its_error() -> None:
    samples = Samples()
    with closing(loader()) as batches:
        batch, failure = batches.load_or_blank(samples, 0, SIZE)
        assert (batch.tokens[..., 0].tolist(), failure) == ([[10, 11], [12, 13], [14, 15], [16, 17]], "")
        samples.broken_from = 8
        blank, failure = batches.load_or_blank(samples, 8, SIZE)
        assert failure == "data/pause: no sample 8"
        assert blank.tokens.shape == batch.tokens.shape
        assert blank.labels.shape == batch.labels.shape
        assert not blank.is_target.any()
        batch, failure = batches.load_or_blank(samples, 0, SIZE)
        assert (len(batch), failure) == (4, "")


def test_closing_ends_the_thread_and_drops_what_was_announced() -> None:
    samples, begun, may_go_on = Samples(), threading.Event(), threading.Event()

    def slow(position: int) -> Sample:
        begun.set()
        may_go_on.wait()
        return samples(position)

    before = threading.active_count()
    batches = loader()
    batches.announce(slow, 0, SIZE)
    batches.announce(samples, 0, SIZE)
    begun.wait()
    threading.Timer(0.05, may_go_on.set).start()
    batches.close()
    assert samples.read == list(range(SIZE))  # of the slow one only
    assert threading.active_count() <= before + 1  # perhaps the timer's
