"""The learning rate warms up linearly, peaks once, and decays to its floor; the batch grows to its size."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.errors import UserError
from pause_megatron.training.schedule import BatchSchedule, learning_rate

OPTIMIZER = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1, min_learning_rate_fraction=0.1)
RAMP = TrainingConfig(train_iters=1, global_batch_size=16, rampup_batch_size=(4, 4, 60))


def rates(schedule: str) -> list[float]:
    """The learning rates of a run of 100 steps."""
    return [learning_rate(step, 100, replace(OPTIMIZER, schedule=schedule)) for step in range(101)]  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule: str) -> None:
    assert rates(schedule)[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates(schedule)[10] == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_decay_ends_at_the_floor(schedule: str) -> None:
    assert rates(schedule)[100] == pytest.approx(0.1)
    assert rates(schedule)[10:] == sorted(rates(schedule)[10:], reverse=True)


def test_decay_has_the_shape_of_its_schedule() -> None:
    assert rates("cosine")[55] == pytest.approx(0.55)
    assert rates("cosine")[32] > rates("linear")[32]
    assert rates("linear")[55] == pytest.approx(0.55)
    assert rates("linear")[32] - rates("linear")[31] == pytest.approx(rates("linear")[80] - rates("linear")[79])
    assert rates("wsd")[10:81] == [1.0] * 71
    assert rates("wsd")[85] == pytest.approx(0.1 + 0.9 * (1 - 0.25**0.5))
    assert rates("constant")[10:] == [1.0] * 91


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, 10, OptimizerConfig(learning_rate=2.0, warmup_fraction=0.0)) == 2.0


def test_stable_part_must_fit_between_warm_up_and_decay() -> None:
    with pytest.raises(UserError, match=r"--decay-fraction 0\.95: .* --warmup-fraction 0\.1"):
        replace(OPTIMIZER, schedule="wsd", decay_fraction=0.95)


def test_batch_without_ramp_up_is_constant() -> None:
    schedule = BatchSchedule(replace(RAMP, rampup_batch_size=()))
    assert [schedule.batch_size(step) for step in (0, 5)] == [16, 16]
    assert [schedule.consumed_samples(step) for step in (0, 5)] == [0, 80]


def test_batch_grows_by_the_increment_each_time_its_share_of_the_samples_is_consumed() -> None:
    """As Megatron-LM computes it: the size of a step from the samples consumed before it."""
    schedule, consumed = BatchSchedule(RAMP), 0
    for step in range(30):
        expected = 16 if consumed >= 60 else 4 + consumed // 20 * 4
        assert schedule.batch_size(step) == expected
        assert schedule.consumed_samples(step) == consumed
        consumed += expected
    sizes = [schedule.batch_size(step) for step in range(30)]
    assert all(a <= b for a, b in pairwise(sizes))
    assert set(sizes) == {4, 8, 12, 16}
