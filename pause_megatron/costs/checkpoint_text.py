"""Formats what checkpoints and failures cost as text for a terminal."""

from collections.abc import Iterator
from dataclasses import dataclass

from pause_megatron.config.training import CheckpointConfig
from pause_megatron.costs.failures import BYTES_PER_PARAMETER, WRITE_RATE, Failures
from pause_megatron.costs.plan import PlannedRun, ScalePlan
from pause_megatron.costs.plan_text import Hardware, amount
from pause_megatron.errors import UserError

_GB = 1e9
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


def checkpoint_lines(
    run: PlannedRun,
    scales: dict[int, ScalePlan | UserError],
    hardware: Hardware,
    checkpoint: CheckpointConfig,
    faults: Faults,
    *,
    mfu: float,
) -> Iterator[str]:
    """Yield the disk space of the run, and for each number of GPUs the best time between checkpoints."""
    size = BYTES_PER_PARAMETER * run.model.num_parameters(run.vocab_size)
    kept = checkpoint.keep_checkpoints + (
        run.training.train_iters // checkpoint.keep_every if checkpoint.keep_every else 0
    )
    id_bytes = 2 if run.vocab_size <= _SMALL_VOCABULARY else 4
    yield (
        f"disk        checkpoints of {_space(size)}, {kept:,} kept: {_space(kept * size)}; one epoch of data:"
        f" {_space(id_bytes * run.tokens)}"
    )
    save = faults.save_seconds or size / WRITE_RATE
    yield (
        f"failures    one in {faults.mtbf_hours:,g} hours of a GPU; a save holds up the run for {save:.3g} s, a restart"
        f" takes {faults.restart_seconds:g} s"
    )
    if not hardware.peak_tflops:
        return
    yield "      GPUs  hours between failures   best --save-interval  in minutes  useful time  as configured"
    for number, scale in scales.items():
        if not isinstance(scale, ScalePlan):
            continue
        step = scale.seconds(peak_tflops=hardware.peak_tflops, mfu=mfu) / run.training.train_iters
        hours = faults.mtbf_hours / number
        failures = Failures(mean_time_between=3600 * hours, save=save, restart=faults.restart_seconds)
        best = min(max(1, round(failures.best_interval / step)), run.training.train_iters)
        shares = [failures.useful_share(steps * step) for steps in (best, checkpoint.save_interval)]
        interval = f"{best:>23,}{amount(best * step / 60):>12}"
        yield f"{number:>10,}{amount(hours):>24}{interval}{shares[0]:>13.1%}{shares[1]:>15.1%}"


def _space(size: float) -> str:
    return f"{size / _GB:,.3g} GB" if size < 1000 * _GB else f"{size / _GB:,.0f} GB"
