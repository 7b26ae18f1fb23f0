"""The learning rate warms up linearly, peaks once, and decays by a cosine to its floor."""

from __future__ import annotations

import pytest

from pause_megatron.config.training import OptimizerConfig
from pause_megatron.training.schedule import learning_rate

OPTIMIZER = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1, min_learning_rate_fraction=0.1)


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    assert [learning_rate(step, 100, OPTIMIZER) for step in range(10)] == pytest.approx(
        [0.1 * (step + 1) for step in range(10)]
    )
    assert learning_rate(10, 100, OPTIMIZER) == pytest.approx(1.0)


def test_decay_is_a_cosine_to_the_floor() -> None:
    assert learning_rate(55, 100, OPTIMIZER) == pytest.approx(0.55)
    assert learning_rate(100, 100, OPTIMIZER) == pytest.approx(0.1)
    rates = [learning_rate(step, 100, OPTIMIZER) for step in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, 10, OptimizerConfig(learning_rate=2.0, warmup_fraction=0.0)) == 2.0
