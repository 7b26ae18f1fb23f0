"""Fields of training records: losses by pauses, sums over an interval, and the time of training."""

from __future__ import annotations

import math

import pytest

from pause_megatron.engine.updater import Update
from pause_megatron.training.loss import LONGEST_RUN, Losses
from pause_megatron.training.metrics.run_metrics import Interval, TrainingClock, loss_fields, perplexity


def losses_by_run(by_run: dict[int, tuple[float, int]]) -> Losses:
    """Losses from summed loss and targets by run of pauses."""
    entries = [by_run.get(length, (0.0, 0)) for length in range(LONGEST_RUN + 1)]
    sums, counts = zip(*entries, strict=True)
    return Losses(sums=sums, counts=counts)


def test_losses_are_grouped_by_the_pauses_before_the_target() -> None:
    fields = loss_fields(losses_by_run({0: (30.0, 10), 1: (8.0, 4), 3: (1.0, 1), LONGEST_RUN: (0.5, 1)}))
    assert fields == {
        "loss": 39.5 / 16,
        "perplexity": pytest.approx(math.exp(39.5 / 16)),
        "loss_after_real": 3.0,
        "loss_after_pause": 9.5 / 6,
        "loss_by_pause_run": {"0": 3.0, "1": 2.0, "3": 1.0, "8+": 0.5},
        "targets_by_pause_run": {"0": 10, "1": 4, "3": 1, "8+": 1},
    }


def test_text_without_pauses_has_no_losses_after_pauses() -> None:
    assert loss_fields(losses_by_run({0: (30.0, 10)})).keys() == {"loss", "perplexity", "loss_after_real"}


def test_perplexity_of_a_huge_loss_is_infinite() -> None:
    assert perplexity(1e4) == math.inf


def test_interval_weights_steps_by_their_targets_and_excludes_skipped_batches() -> None:
    applied = Update(applied=True, grad_norm=2.0, loss_scale=1.0, gradient_scale=0.9)
    overflow = Update(applied=False, grad_norm=math.inf, loss_scale=256.0, gradient_scale=230.0)
    interval = Interval()
    interval.add(losses_by_run({0: (6.0, 2)}), applied, 4)
    interval.add(losses_by_run({0: (math.nan, 2)}), None, 4)
    interval.add(losses_by_run({0: (2.0, 6)}), overflow, 8)
    assert (interval.losses.mean, interval.last_loss) == (1.0, pytest.approx(1 / 3))
    assert (interval.steps, interval.skipped_steps, interval.sequences, interval.batch_size) == (3, 2, 16, 8)
    assert (interval.grad_norm, interval.loss_scale) == (2.0, 256.0)


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_laps_exclude_pauses_of_the_clock_and_elapsed_includes_them() -> None:
    time = Time()
    clock = TrainingClock(time)
    time.now += 7  # a checkpoint is loaded
    clock.restart()
    time.now += 2
    with clock.paused():
        time.now += 100
    time.now += 3
    assert clock.lap() == 5
    with clock.paused():
        time.now += 10
    time.now += 4
    assert clock.lap() == 4
    assert clock.elapsed == 119


def test_clock_runs_again_after_a_pause_that_raised() -> None:
    time = Time()
    clock = TrainingClock(time)
    try:
        with clock.paused():
            time.now += 1
            raise KeyError
    except KeyError:
        time.now += 2
    assert clock.lap() == 2
