"""Training time is what is left when validation and checkpoints are taken out."""

from __future__ import annotations

from pause_megatron.training.watching.clock import TrainingClock


class Time:
    """A time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_laps_leave_pauses_out_and_the_whole_does_not() -> None:
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


def test_time_goes_on_after_a_pause_that_ended_in_an_error() -> None:
    time = Time()
    clock = TrainingClock(time)
    try:
        with clock.paused():
            time.now += 1
            raise KeyError
    except KeyError:
        time.now += 2
    assert clock.lap() == 2
