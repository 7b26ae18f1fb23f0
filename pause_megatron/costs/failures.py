"""Failures of a run: the checkpoint interval that loses the least time, and the share of time that is useful.

The model is that of Daly (2006, "A higher order estimate of the optimum checkpoint interval for restart dumps"), which
refines Young (1974). Failures come at random with a constant rate, and each loses the work since the last checkpoint
and the time of a restart.
"""

import math
from dataclasses import dataclass

BYTES_PER_PARAMETER = 12
"""Of a checkpoint: weight and both moments of AdamW in fp32."""
WRITE_RATE = 2e9
"""Bytes per second to the shared disk, assumed if the time of a save is not given."""


@dataclass(frozen=True, kw_only=True)
class Failures:
    """What a run loses by failures and saves; all times are in seconds."""

    mean_time_between: float
    """Of the complete run: that of one device divided by their number."""
    save: float
    """Time for which a save holds up the run."""
    restart: float
    """Time from a failure to the first step after it, without the lost steps."""

    @property
    def best_interval(self) -> float:
        """Time between checkpoints that loses the least (Daly 2006, equation 37)."""
        if self.save >= 2 * self.mean_time_between:
            return self.mean_time_between
        share = self.save / (2 * self.mean_time_between)
        return math.sqrt(2 * self.save * self.mean_time_between) * (1 + math.sqrt(share) / 3 + share / 9) - self.save

    def useful_share(self, interval: float) -> float:
        """Expected share of the run's time that is spent on steps that are kept, with saves ``interval`` apart.

        From the expected total time (Daly 2006, equation 20).
        """
        between = self.mean_time_between
        try:
            lost = math.exp(self.restart / between) * math.expm1((interval + self.save) / between)
        except OverflowError:
            return 0.0
        return interval / (between * lost)
