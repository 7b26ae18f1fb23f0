"""TensorBoard: every number of every record as a chart over iterations."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pause_megatron.training.watching.records import Record, scalars


class TensorBoard:
    """Writes an event file in ``folder``; look at it with ``tensorboard --logdir FOLDER``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, record: Record) -> None:
        """Add a point to the chart of each number.

        The first record says where this process goes on: what the run's earlier event files hold from there on was
        taken back by a crash, and TensorBoard is told to leave it out.
        """
        iteration = record["iteration"]
        if self._writer is None:
            after_checkpoint = record["kind"] == "resumed"
            self._writer = SummaryWriter(str(self._folder), purge_step=iteration + after_checkpoint)
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
