"""Detection of bad batches before the optimizer moves.

A batch is bad if its loss or its gradient is not finite, or if its loss is a spike: several times the median of the
last good losses. A few outliers do not change a median, and bad losses do not enter it.

A decision depends only on numbers that are equal on all ranks and stored in checkpoints. So all ranks decide alike, and
a resumed run decides like an uninterrupted one.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pause_megatron.config.training import FaultsConfig
from pause_megatron.records.checkpoint_state import RecentLosses

_DOCUMENTS_SHOWN = 5
"""Documents of a bad batch in a message; metrics.jsonl lists all of them."""


@dataclass(frozen=True)
class BatchDecision:
    """Whether a batch may change the weights, and whether the run must stop."""

    reason: str = ""
    """Defect of the batch, for example "the loss is nan"; empty for a good batch."""
    stops_run: bool = False
    """Whether the run stops because of the batch; if not, the batch is skipped."""

    @property
    def is_bad(self) -> bool:
        """Whether the batch must not change the weights."""
        return bool(self.reason)

    def describe(self, documents: Sequence[str]) -> str:
        """Return the defect of the batch with some of its ``documents``, for messages."""
        more = f" and {len(documents) - _DOCUMENTS_SHOWN} more" if len(documents) > _DOCUMENTS_SHOWN else ""
        shown = ", ".join(documents[:_DOCUMENTS_SHOWN])
        return f"{self.reason}; its batch changed no weight; documents: {shown}{more}"


GOOD = BatchDecision()


class BatchJudge:
    """Decides on each batch of a run in order: by its loss and, if that is good, by its gradient norm."""

    def __init__(self, faults: FaultsConfig) -> None:
        self._faults = faults
        self._losses: deque[float] = deque(maxlen=faults.spike_window)
        self._bad_in_a_row = 0

    def of_loss(self, loss: float) -> BatchDecision:
        """Decide by the mean ``loss`` of the batch in nats, before the optimizer moves."""
        factor, window = self._faults.spike_factor, self._losses
        if not math.isfinite(loss):
            return self._bad(f"the loss is {loss}")
        if factor and len(window) == window.maxlen and loss > factor * (usual := median(window)):
            return self._bad(
                f"the loss, {loss:.4g}, is {loss / usual:.3g} times the median of the last {len(window)}, {usual:.4g}"
                f" (--spike-factor {factor:g})"
            )
        return GOOD

    def of_gradient(self, loss: float, norm: float, *, is_scaled: bool = False) -> BatchDecision:
        """Decide by the gradient ``norm`` of a batch with a good ``loss``.

        ``is_scaled``: the gradient was computed from a scaled loss (fp16). If it is not finite, the loss scale was too
        high, and the batch is not bad.
        """
        if not (is_scaled or (math.isfinite(norm) and norm >= 0)):
            return self._bad("the gradient is not finite")
        self._losses.append(loss)
        self._bad_in_a_row = 0
        return GOOD

    def _bad(self, reason: str) -> BatchDecision:
        self._bad_in_a_row += 1
        if self._faults.on_bad_batch == "stop":
            return BatchDecision(reason, stops_run=True)
        if self._bad_in_a_row >= self._faults.max_bad_batches:
            counted = f"{self._bad_in_a_row} in a row, --max-bad-batches {self._faults.max_bad_batches}"
            return BatchDecision(f"{reason} ({counted})", stops_run=True)
        return BatchDecision(reason)

    @property
    def recent(self) -> RecentLosses:
        """State to keep in a checkpoint."""
        return RecentLosses(losses=tuple(self._losses), bad_in_a_row=self._bad_in_a_row)

    def restore(self, recent: RecentLosses | None) -> None:
        """Continue from :attr:`recent`; if ``spike_window`` is shorter now, with the newest losses only."""
        if recent is not None:
            self._losses = deque(recent.losses, maxlen=self._losses.maxlen)
            self._bad_in_a_row = recent.bad_in_a_row
