"""Losses of blocks in validation records."""

from __future__ import annotations

import pytest

from pause_megatron.config.parallel import Layout
from pause_megatron.config.training import TrainingConfig
from pause_megatron.training.loss import LONGEST_RUN, Losses
from pause_megatron.training.validation import MOST_BLOCKS, block_fields, validation_batch_size


def batch(loss: float, targets: int) -> Losses:
    """Losses of a batch whose targets all follow a real token."""
    rest = (0,) * LONGEST_RUN
    return Losses(sums=(loss * targets, *map(float, rest)), counts=(targets, *rest))


@pytest.mark.parametrize("batches", [1, MOST_BLOCKS, MOST_BLOCKS + 1, 1000])
def test_many_batches_are_joined_to_few_blocks_that_keep_every_target(batches: int) -> None:
    found = block_fields([batch(float(number), 10 + number) for number in range(batches)])
    assert len(found["block_losses"]) == len(found["block_targets"]) <= min(batches, MOST_BLOCKS)
    assert sum(found["block_targets"]) == sum(10 + number for number in range(batches))
    total = sum(loss * targets for loss, targets in zip(found["block_losses"], found["block_targets"], strict=True))
    assert total == pytest.approx(sum(number * (10 + number) for number in range(batches)))


@pytest.mark.parametrize(
    ("sequences", "global_batch", "pp", "dp", "expected"),
    [
        (1024, 256, 1, 8, 32),  # 32 blocks of one microbatch on each rank
        (1024, 512, 4, 8, 128),  # as many microbatches as stages
        (8192, 512, 1, 8, 128),  # 64 blocks
        (10**6, 512, 1, 8, 512),  # never above the batch of training
        (1024, 24, 4, 2, 16),  # training has three microbatches in four stages
    ],
)
def test_batches_of_validation_are_small_and_fit_the_layout(
    sequences: int, global_batch: int, pp: int, dp: int, expected: int
) -> None:
    sizes = {"global_batch_size": global_batch, "micro_batch_size": 4, "validation_sequences": sequences}
    training = TrainingConfig(train_iters=1, **sizes)
    layout = Layout(tp=1, pp=pp, vp=1, dp=dp, sequence_parallel=False)
    assert validation_batch_size(training, layout) == expected
