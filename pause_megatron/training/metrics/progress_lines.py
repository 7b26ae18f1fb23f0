"""Progress lines: one line on standard error for each record, with the most important numbers."""

from pause_megatron import log
from pause_megatron.records.pretraining import MetricsRecord, ResumedRecord, TrainRecord, ValidationRecord

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class ProgressLines:
    """Prints a line for every record except those of bad batches, which the training loop reports."""

    def __init__(self, train_iters: int) -> None:
        self._train_iters = train_iters

    def write(self, record: MetricsRecord) -> None:
        """Print the line of ``record``."""
        match record:
            case TrainRecord():
                line = _training(record)
            case ValidationRecord():
                line = f"validation on {record.dataset}: {_loss(record)}  perplexity {record.perplexity:.2f}"
            case ResumedRecord():
                line = (
                    f"resuming from {record.checkpoint}, written by {record.checkpoint_layout}"
                    f" (restart {record.restarts})"
                )
            case _:
                return
        log.info(f"iteration {record.iteration:>6}/{self._train_iters}  {line}")

    def close(self) -> None:
        """Do nothing: lines are not buffered."""


def _training(record: TrainRecord) -> str:
    parts = [_loss(record)]
    if record.grad_norm is not None:
        parts.append(f"grad norm {record.grad_norm:.3f}")
    parts.append(f"lr {record.learning_rate:.2e}")
    if record.loss_scale is not None:
        parts.append(f"loss scale {record.loss_scale:g}")
    if record.skipped_steps:
        parts.append(f"{record.skipped_steps} of {record.steps} steps skipped")
    parts += [f"{record.tokens_per_second:,.0f} tokens/s", f"{record.tflops_per_device:.3g} TFLOP/s"]
    if record.mfu is not None:
        parts.append(f"MFU {record.mfu:.1%}")
    parts += [_size(record.memory_bytes), f"{log.format_duration(record.seconds_left)} left"]
    return "  ".join(parts)


def _loss(record: TrainRecord | ValidationRecord) -> str:
    text = f"loss {record.loss:.4f}"
    if record.loss_after_pause is not None and record.loss_after_real is not None:
        text += f" (after real {record.loss_after_real:.4f}, after pause {record.loss_after_pause:.4f})"
    return text


def _size(size: float) -> str:
    scale, unit = next((pair for pair in _UNITS if size >= pair[0]), (1.0, "B"))
    return f"{size / scale:.3g} {unit}"
