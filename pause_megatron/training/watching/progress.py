"""A line for a person: the figures of a record that say at a glance how a run is doing."""

from __future__ import annotations

from pause_megatron import log
from pause_megatron.training.watching.records import Record

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class ProgressLines:
    """Prints a line for every record but a bad batch's, of which the loop itself speaks."""

    def __init__(self, train_iters: int) -> None:
        self._train_iters = train_iters

    def write(self, record: Record) -> None:
        """Print the line of ``record``, if it has one."""
        lines = {"train": _training, "validation": _validation, "resumed": _resumed}
        if line := lines.get(record["kind"]):
            log.info(f"iteration {record['iteration']:>6}/{self._train_iters}  {line(record)}")

    def close(self) -> None:
        """Nothing is held back."""


def _training(record: Record) -> str:
    parts = [_loss(record)]
    if "grad_norm" in record:
        parts.append(f"grad norm {record['grad_norm']:.3f}")
    parts.append(f"lr {record['learning_rate']:.2e}")
    if "loss_scale" in record:
        parts.append(f"loss scale {record['loss_scale']:g}")
    if record["skipped_steps"]:
        parts.append(f"{record['skipped_steps']} of {record['steps']} steps skipped")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if "tflops_per_device" in record:
        parts.append(f"{record['tflops_per_device']:.3g} TFLOP/s")
    if "mfu" in record:
        parts.append(f"MFU {record['mfu']:.1%}")
    parts.append(_size(record["memory_bytes"]))
    parts.append(f"{duration(record['seconds_left'])} left")
    return "  ".join(parts)


def _validation(record: Record) -> str:
    return f"validation on {record['dataset']}: {_loss(record)}  perplexity {record['perplexity']:.2f}"


def _resumed(record: Record) -> str:
    return (
        f"continuing from {record['checkpoint']}, written by {record['checkpoint_layout']}"
        f" (restart {record['restarts']})"
    )


def _loss(record: Record) -> str:
    text = f"loss {record['loss']:.4f}"
    if "loss_after_pause" in record and "loss_after_real" in record:
        text += f" (after real {record['loss_after_real']:.4f}, after pause {record['loss_after_pause']:.4f})"
    return text


def _size(size: float) -> str:
    scale, unit = next((entry for entry in _UNITS if size >= entry[0]), (1.0, "B"))
    return f"{size / scale:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: "3 d 04 h", "1 h 02 min", "5 min 09 s", "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
