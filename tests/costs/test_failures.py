"""Checkpoint intervals under failures, against a simulation and a search."""

from __future__ import annotations

import math
import random

import pytest

from pause_megatron.costs.failures import Failures


def simulated_share(failures: Failures, interval: float, *, segments: int, seed: int = 0) -> float:
    """Simulate ``segments`` stretches of work, each followed by a save; a failure repeats its stretch after a restart.

    Failures may also happen in a save and in a restart.
    """
    draw, total = random.Random(seed), 0.0
    for _ in range(segments):
        needed = interval + failures.save
        while (until := draw.expovariate(1 / failures.mean_time_between)) < needed:
            total += until
            while (during := draw.expovariate(1 / failures.mean_time_between)) < failures.restart:
                total += during
            total += failures.restart
        total += needed
    return segments * interval / total


@pytest.mark.parametrize("interval", [300.0, 1500.0, 6000.0])
@pytest.mark.parametrize(("between", "save", "restart"), [(7200.0, 60.0, 600.0), (1800.0, 120.0, 300.0)])
def test_useful_share_is_that_of_a_simulation(between: float, save: float, restart: float, interval: float) -> None:
    failures = Failures(mean_time_between=between, save=save, restart=restart)
    assert failures.useful_share(interval) == pytest.approx(
        simulated_share(failures, interval, segments=20_000), abs=0.02
    )


@pytest.mark.parametrize("save", [1.0, 8.0, 60.0, 600.0])
@pytest.mark.parametrize("between", [3600.0, 100_000.0, 20_000_000.0])
def test_best_interval_loses_the_least(between: float, save: float) -> None:
    failures = Failures(mean_time_between=between, save=save, restart=300.0)
    best = failures.best_interval
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert failures.useful_share(best) > failures.useful_share(factor * best)
    young = math.sqrt(2 * save * between)
    assert young - save <= best <= young


def test_extremes() -> None:
    hopeless = Failures(mean_time_between=10.0, save=100.0, restart=1e5)
    assert hopeless.best_interval == 10.0
    assert hopeless.useful_share(10.0) == 0.0
    free = Failures(mean_time_between=1e9, save=0.0, restart=0.0)
    assert free.useful_share(1.0) == pytest.approx(1.0)
