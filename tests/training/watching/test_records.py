"""What records say of losses, and what their numbers are called in charts."""

from __future__ import annotations

import math

import pytest

from pause_megatron.engine.update import Update
from pause_megatron.training.loss import LONGEST_RUN, Losses
from pause_megatron.training.watching.interval import Interval
from pause_megatron.training.watching.records import loss_figures, mean_figures, scalars


def losses_by_run(by_run: dict[int, tuple[float, int]]) -> Losses:
    """Losses from summed loss and targets by run of pauses."""
    entries = [by_run.get(length, (0.0, 0)) for length in range(LONGEST_RUN + 1)]
    sums, counts = zip(*entries, strict=True)
    return Losses(sums=sums, counts=counts)


def test_losses_are_told_apart_by_the_pauses_before_the_target() -> None:
    figures = loss_figures(losses_by_run({0: (30.0, 10), 1: (8.0, 4), 3: (1.0, 1), LONGEST_RUN: (0.5, 1)}))
    assert figures == {
        "loss": 39.5 / 16,
        "perplexity": pytest.approx(math.exp(39.5 / 16)),
        "loss_after_real": 3.0,
        "loss_after_pause": 9.5 / 6,
        "loss_by_pause_run": {"0": 3.0, "1": 2.0, "3": 1.0, "8+": 0.5},
        "targets_by_pause_run": {"0": 10, "1": 4, "3": 1, "8+": 1},
    }


def test_text_without_pauses_has_no_losses_after_pauses() -> None:
    assert loss_figures(losses_by_run({0: (30.0, 10)})).keys() == {"loss", "perplexity", "loss_after_real"}


def test_perplexity_of_a_loss_beyond_all_bounds_is_infinite() -> None:
    assert mean_figures(1e4) == {"loss": 1e4, "perplexity": math.inf}


def test_interval_weighs_steps_by_their_targets_and_leaves_out_dropped_batches() -> None:
    applied = Update(applied=True, grad_norm=2.0, loss_scale=1.0)
    overflow = Update(applied=False, grad_norm=math.inf, loss_scale=256.0)
    interval = Interval()
    interval.add(losses_by_run({0: (6.0, 2)}), applied, 4)
    interval.add(losses_by_run({0: (math.nan, 2)}), None, 4)
    interval.add(losses_by_run({0: (2.0, 6)}), overflow, 8)
    assert (interval.losses.mean, interval.last_loss) == (1.0, pytest.approx(1 / 3))
    assert (interval.steps, interval.skipped_steps, interval.sequences, interval.batch_size) == (3, 2, 16, 8)
    assert (interval.grad_norm, interval.loss_scale) == (2.0, 256.0)


def test_charts_are_named_by_kind_dataset_and_group() -> None:
    train = {"kind": "train", "iteration": 7, "loss": 2.0, "loss_by_pause_run": {"1": 3.0}, "perplexity": math.inf}
    assert scalars(train) == {"train/loss": 2.0, "train/loss_by_pause_run/1": 3.0}
    validation = {"kind": "validation", "iteration": 7, "dataset": "held-out", "pauses": "none", "loss": 2.0}
    assert scalars(validation) == {"validation/held-out/loss": 2.0}
