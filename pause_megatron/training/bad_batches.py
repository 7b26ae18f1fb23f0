"""Batches that would spoil the weights are found before the optimizer moves.

A batch is bad when its loss or its gradient is not finite, or when its loss is a spike: several times the median of the
last good ones. The median, other than a mean, is not moved by a few outliers, and bad losses do not enter it at all.

The judgement depends on numbers alone that all processes share and that a checkpoint holds, so every process comes to
the same, and a run that was interrupted to the same as one that was not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from pause_megatron.config.training import FaultsConfig
from pause_megatron.records.checkpoint_state import RecentLosses


@dataclass(frozen=True)
class Verdict:
    """What is to become of a batch."""

    reason: str = ""
    """What is wrong with it; nothing when it is good."""
    ends_the_run: bool = False
    """Whether the run has to stop because of it, rather than drop it and go on."""

    @property
    def is_bad(self) -> bool:
        """Whether the batch must not change the weights."""
        return bool(self.reason)


GOOD = Verdict()


class BatchJudge:
    """Judges the batches of a run, one after the other: each by its loss and, if that is good, by its gradient."""

    def __init__(self, faults: FaultsConfig) -> None:
        self._faults = faults
        self._losses: deque[float] = deque(maxlen=faults.spike_window)
        self._bad_in_a_row = 0

    def of_loss(self, loss: float) -> Verdict:
        """Judge by the mean ``loss`` (nats) of the batch, before the optimizer moves."""
        factor, window = self._faults.spike_factor, self._losses
        if not math.isfinite(loss):
            return self._bad(f"the loss is {loss}")
        if factor and len(window) == window.maxlen and loss > factor * (usual := median(window)):
            return self._bad(
                f"the loss, {loss:.4g}, is {loss / usual:.3g} times the median of the last {len(window)}, {usual:.4g}"
                f" (--spike-factor {factor:g})"
            )
        return GOOD

    def of_gradient(self, loss: float, norm: float, *, is_scaled: bool = False) -> Verdict:
        """Judge by the ``norm`` of the gradient of a batch whose ``loss`` is good.

        ``is_scaled``: the loss was scaled up before it was differentiated, as with fp16. A gradient that is not finite
        then tells the scaler to scale less, and nothing of the batch.
        """
        if not (is_scaled or (math.isfinite(norm) and norm >= 0)):
            return self._bad("the gradient is not finite")
        self._losses.append(loss)
        self._bad_in_a_row = 0
        return GOOD

    def _bad(self, reason: str) -> Verdict:
        self._bad_in_a_row += 1
        if self._faults.on_bad_batch == "stop":
            return Verdict(reason, ends_the_run=True)
        if self._bad_in_a_row >= self._faults.max_bad_batches:
            counted = f"{self._bad_in_a_row} in a row, --max-bad-batches {self._faults.max_bad_batches}"
            return Verdict(f"{reason} ({counted})", ends_the_run=True)
        return Verdict(reason)

    @property
    def recent(self) -> RecentLosses:
        """State to keep in a checkpoint."""
        return RecentLosses(losses=tuple(self._losses), bad_in_a_row=self._bad_in_a_row)

    def restore(self, recent: RecentLosses | None) -> None:
        """Continue from :attr:`recent`; if ``spike_window`` is shorter now, with the newest losses only."""
        if recent is not None:
            self._losses = deque(recent.losses, maxlen=self._losses.maxlen)
            self._bad_in_a_row = recent.bad_in_a_row
