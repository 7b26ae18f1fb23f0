"""Disk space of a run's checkpoints, and the time between them that loses the least to failures."""

from dataclasses import dataclass

from pause_megatron.config.training import CheckpointConfig
from pause_megatron.costs.failures import BYTES_PER_PARAMETER, WRITE_RATE, Failures
from pause_megatron.costs.plan import PlannedRun, ScalePlan

_SMALL_VOCABULARY = 2**16
"""Ids of smaller vocabularies take two bytes in a dataset, others four."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Assumptions about failures and saves."""

    mtbf_hours: float
    """Mean time between failures of one GPU."""
    save_seconds: float
    """Time that a save holds up the run; 0 for an estimate from its size."""
    restart_seconds: float
    """Time from a failure to the first step after it."""


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """Bytes on the disk."""

    checkpoint: int
    """One checkpoint."""
    kept: int
    """Number of checkpoints that are kept."""
    epoch: int
    """Token ids of one epoch of data."""

    @property
    def checkpoints(self) -> int:
        """All checkpoints that are kept."""
        return self.kept * self.checkpoint


@dataclass(frozen=True, kw_only=True)
class SaveInterval:
    """The best time between checkpoints on one number of devices."""

    hours_between_failures: float
    """Of the complete run."""
    steps: int
    """Best ``--save-interval``."""
    minutes: float
    """The same as a time."""
    useful_share: float
    """Expected share of the time spent on steps that are kept."""
    useful_share_as_configured: float
    """The same with the configured ``--save-interval``."""


def disk_space(run: PlannedRun, checkpoint: CheckpointConfig) -> DiskSpace:
    """Return the disk space of ``run``."""
    kept = checkpoint.keep_checkpoints
    if checkpoint.keep_every:
        kept += run.training.train_iters // checkpoint.keep_every
    id_bytes = 2 if run.vocab_size <= _SMALL_VOCABULARY else 4
    size = BYTES_PER_PARAMETER * run.model.num_parameters(run.vocab_size)
    return DiskSpace(checkpoint=size, kept=kept, epoch=id_bytes * run.tokens)


def save_seconds(run: PlannedRun, faults: Faults) -> float:
    """Return the time for which a save holds up ``run``."""
    return faults.save_seconds or BYTES_PER_PARAMETER * run.model.num_parameters(run.vocab_size) / WRITE_RATE


def best_save_interval(
    scale: ScalePlan, checkpoint: CheckpointConfig, faults: Faults, *, peak_tflops: float, mfu: float
) -> SaveInterval:
    """Return the best time between checkpoints (Daly 2006) of a run on ``scale``."""
    training, number = scale.run.training, scale.layout.world_size
    step = scale.seconds(peak_tflops=peak_tflops, mfu=mfu) / training.train_iters
    hours = faults.mtbf_hours / number
    failures = Failures(
        mean_time_between=3600 * hours, save=save_seconds(scale.run, faults), restart=faults.restart_seconds
    )
    best = min(max(1, round(failures.best_interval / step)), training.train_iters)
    return SaveInterval(
        hours_between_failures=hours,
        steps=best,
        minutes=best * step / 60,
        useful_share=failures.useful_share(best * step),
        useful_share_as_configured=failures.useful_share(checkpoint.save_interval * step),
    )
