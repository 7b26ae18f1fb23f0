"""What a run does when something goes wrong, or when its time is up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FaultsConfig:
    """Bad batches, dead processes, and the end of the allotted time."""

    exit_duration: float = 0.0
    """Minutes after which the run saves and leaves with exit code 85, to be queued again; 0: no limit."""
    spike_factor: float = 3.0
    """A loss above this many times the median of the last spike_window steps is a spike, and its batch a bad one, as
    is one whose loss or gradient is not finite; 0: only the latter."""
    spike_window: int = 128
    """Steps the median is taken over; no loss is a spike before so many have been seen."""
    on_bad_batch: Literal["stop", "skip"] = "stop"
    """stop: leave before the optimizer moves, naming the batch's documents. skip: drop the batch and go on."""
    max_bad_batches: int = 10
    """Bad batches in a row after which skipping stops too."""
    dead_rank_timeout: float = 60.0
    """Seconds without a sign of life after which a process counts as dead and the run ends with exit code 86, naming
    it. One that was killed or crashed is noticed at once."""
    collective_timeout: float = 30.0
    """Minutes a process waits for the others in one exchange, and bears with their silence before the first step,
    until the run ends."""

    def __post_init__(self) -> None:
        require_at_least(0, exit_duration=self.exit_duration, spike_factor=self.spike_factor)
        require_at_least(1, spike_window=self.spike_window, max_bad_batches=self.max_bad_batches)
        if 0 < self.spike_factor <= 1:
            raise UserError(f"--spike-factor {self.spike_factor}: must be above 1, or 0")
        for name in ("dead_rank_timeout", "collective_timeout"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be positive")
