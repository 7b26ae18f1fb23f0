"""Detection of bad batches: by loss and gradient norm, and the same after a restart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pause_megatron.config.training import FaultsConfig
from pause_megatron.errors import UserError
from pause_megatron.records.checkpoint_state import RecentLosses
from pause_megatron.records.files import convert_record, plain_record
from pause_megatron.training.bad_batches import GOOD, BatchDecision, BatchJudge

NOT_FINITE = (math.nan, math.inf, -math.inf)
LOSSES = st.one_of(st.floats(0.5, 50.0), st.sampled_from(NOT_FINITE))
NORMS = st.one_of(st.floats(0.0, 1e6), st.sampled_from((*NOT_FINITE, -1.0)))
BATCHES = st.lists(st.tuples(LOSSES, NORMS), max_size=60)
FAULTS = st.builds(
    FaultsConfig,
    spike_factor=st.sampled_from((0.0, 1.01, 1.5, 3.0)),
    spike_window=st.integers(1, 8),
    on_bad_batch=st.sampled_from(("stop", "skip")),
    max_bad_batches=st.integers(1, 4),
)


def judge(judge: BatchJudge, loss: float, norm: float, *, is_scaled: bool = False) -> BatchDecision:
    decision = judge.of_loss(loss)
    return decision if decision.is_bad else judge.of_gradient(loss, norm, is_scaled=is_scaled)


def judge_all(judge_: BatchJudge, batches: Sequence[tuple[float, float]]) -> list[BatchDecision]:
    return [judge(judge_, loss, norm) for loss, norm in batches]


@settings(deadline=None)
@given(FAULTS, BATCHES, st.booleans())
def test_decisions_are_those_of_the_definition(
    faults: FaultsConfig, batches: list[tuple[float, float]], is_scaled: bool
) -> None:
    good: list[float] = []
    in_a_row = 0
    judged = BatchJudge(faults)
    for loss, norm in batches:
        decision = judge(judged, loss, norm, is_scaled=is_scaled)
        last = good[-faults.spike_window :]
        is_spike = bool(faults.spike_factor) and len(last) == faults.spike_window
        is_spike = is_spike and loss > faults.spike_factor * median(last)
        bad_gradient = not is_scaled and (norm == -1.0 or not math.isfinite(norm))
        is_bad = not math.isfinite(loss) or is_spike or bad_gradient
        in_a_row = in_a_row + 1 if is_bad else 0
        good += [] if is_bad else [loss]
        assert decision.is_bad == is_bad
        ends = is_bad and (faults.on_bad_batch == "stop" or in_a_row >= faults.max_bad_batches)
        assert decision.stops_run == ends


@settings(deadline=None)
@given(FAULTS, BATCHES, st.integers(0, 60))
def test_resumed_run_decides_like_an_uninterrupted_one(
    faults: FaultsConfig, batches: list[tuple[float, float]], restart: int
) -> None:
    complete = judge_all(BatchJudge(faults), batches)
    first, second = BatchJudge(faults), BatchJudge(faults)
    before = judge_all(first, batches[:restart])
    saved = json.loads(json.dumps(plain_record(first.recent), allow_nan=False))
    second.restore(convert_record(saved, RecentLosses, "checkpoint", "write it again"))
    assert before + judge_all(second, batches[restart:]) == complete


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 5.0), min_size=8, max_size=20), st.integers(1, 8))
def test_shorter_window_keeps_the_newest_losses(losses: list[float], window: int) -> None:
    long, short, fresh = (BatchJudge(FaultsConfig(spike_window=size)) for size in (8, window, window))
    judge_all(long, [(loss, 1.0) for loss in losses])
    kept = long.recent.losses
    judge_all(fresh, [(loss, 1.0) for loss in kept[-window:]])
    short.restore(long.recent)
    assert short.recent.losses == fresh.recent.losses == kept[-window:]


def test_a_good_loss_does_not_change_the_state() -> None:
    judged = BatchJudge(FaultsConfig(spike_window=2))
    before = judged.recent
    assert judged.of_loss(3.0) == GOOD
    assert judged.recent == before


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (9.5, 1.0, "the loss, 9.5, is 3.17 times the median of the last 3, 3 (--spike-factor 3)"),
        (2.0, math.nan, "the gradient is not finite"),
        (2.0, -1.0, "the gradient is not finite"),
    ],
)
def test_reason_describes_the_defect(loss: float, norm: float, reason: str) -> None:
    judged = BatchJudge(FaultsConfig(spike_window=3))
    assert not any(decision.is_bad for decision in judge_all(judged, [(2.0, 1.0), (3.0, 1.0), (4.0, 1.0)]))
    assert judge(judged, loss, norm) == BatchDecision(reason, stops_run=True)


def test_skipping_stops_after_max_bad_batches_in_a_row() -> None:
    judged = BatchJudge(FaultsConfig(on_bad_batch="skip", max_bad_batches=2))
    bad, good = (math.nan, 1.0), (2.0, 1.0)
    decisions = judge_all(judged, [bad, good, bad, bad])
    assert [decision.stops_run for decision in decisions] == [False, False, False, True]
    assert decisions[-1].reason == "the loss is nan (2 in a row, --max-bad-batches 2)"


def test_overflow_under_loss_scaling_is_not_a_bad_batch() -> None:
    judged = BatchJudge(FaultsConfig())
    assert judge(judged, 2.0, math.inf, is_scaled=True) == GOOD
    assert judge(judged, math.inf, 1.0, is_scaled=True).is_bad


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"spike_factor": 0.5}, "--spike-factor 0.5: must be above 1, or 0"),
        ({"spike_factor": -1.0}, "--spike-factor"),
        ({"spike_window": 0}, "--spike-window"),
        ({"max_bad_batches": 0}, "--max-bad-batches"),
        ({"exit_duration": -1.0}, "--exit-duration"),
        ({"dead_rank_timeout": 0.0}, "--dead-rank-timeout 0.0: must be positive"),
        ({"collective_timeout": -1.0}, "--collective-timeout -1.0: must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FaultsConfig(**setting)
