"""Formats what checkpoints and failures cost as text for a terminal."""

from collections.abc import Iterator

from pause_megatron.config.training import CheckpointConfig
from pause_megatron.costs.checkpoint_plan import Faults, best_save_interval, disk_space, save_seconds
from pause_megatron.costs.plan import PlannedRun, ScalePlan
from pause_megatron.costs.plan_text import Hardware, amount
from pause_megatron.errors import UserError

_GB = 1e9


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
    disk = disk_space(run, checkpoint)
    yield (
        f"disk        checkpoints of {_space(disk.checkpoint)}, {disk.kept:,} kept: {_space(disk.checkpoints)}; one"
        f" epoch of data: {_space(disk.epoch)}"
    )
    yield (
        f"failures    one in {faults.mtbf_hours:,g} hours of a GPU; a save holds up the run for"
        f" {save_seconds(run, faults):.3g} s, a restart takes {faults.restart_seconds:g} s"
    )
    if not hardware.peak_tflops:
        return
    yield "      GPUs  hours between failures   best --save-interval  in minutes  useful time  as configured"
    for number, scale in scales.items():
        if isinstance(scale, ScalePlan):
            best = best_save_interval(scale, checkpoint, faults, peak_tflops=hardware.peak_tflops, mfu=mfu)
            interval = f"{best.steps:>23,}{amount(best.minutes):>12}"
            shares = f"{best.useful_share:>13.1%}{best.useful_share_as_configured:>15.1%}"
            yield f"{number:>10,}{amount(best.hours_between_failures):>24}{interval}{shares}"


def _space(size: float) -> str:
    return f"{size / _GB:,.3g} GB" if size < 1000 * _GB else f"{size / _GB:,.0f} GB"
