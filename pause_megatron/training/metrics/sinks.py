"""Sinks of metrics: progress lines, metrics.jsonl, TensorBoard and Weights & Biases."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pause_megatron import log
from pause_megatron.atomic import write_text
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError, one_line
from pause_megatron.records.files import line_of
from pause_megatron.records.pretraining import METRICS_FILE, MetricsRecord, ResumedRecord
from pause_megatron.training.metrics.progress_lines import ProgressLines

TENSORBOARD_FOLDER = "tensorboard"
WANDB_RUN_ID_FILE = "wandb-run-id"
"""File in the run folder with the id of the W&B run, so that a restart continues that run."""


class Sink(Protocol):
    """Receives the records of a run in order, on rank 0."""

    def write(self, record: MetricsRecord) -> None:
        """Write one record so that it survives a crash of this process."""

    def close(self) -> None:
        """Write everything that is buffered, and close."""


class Sinks:
    """All sinks of a run. An error of a sink is a warning: it loses records but does not end the run."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def write(self, record: MetricsRecord) -> None:
        """Write ``record`` to every sink."""
        for sink in self._sinks:
            with _warn_on_error(sink, f"the record of iteration {record.iteration}"):
                sink.write(record)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            with _warn_on_error(sink, "its last records"):
                sink.close()


@contextmanager
def _warn_on_error(sink: Sink, records: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # for example a full disk or a lost network
        log.warn(f"{type(sink).__name__} lost {records}: {one_line(error)}")


def open_sinks(config: PretrainConfig) -> list[Sink]:
    """The sinks of ``config.logging`` in the run's folder. Raises :class:`UserError` when one cannot be opened."""
    sinks: list[Sink] = [ProgressLines(config.training.train_iters), MetricsFile(config.output / METRICS_FILE)]
    if config.logging.tensorboard:
        sinks.append(TensorBoard(config.output / TENSORBOARD_FOLDER))
    if project := config.logging.wandb_project:
        sinks.append(WeightsAndBiases(config.output, project, to_plain(config)))
    return sinks


class MetricsFile:
    """``metrics.jsonl``: one JSON object per line and record, appended to by every restart."""

    def __init__(self, path: Path) -> None:
        self._lines = log.JsonLines(path)

    def write(self, record: MetricsRecord) -> None:
        """Append ``record`` and flush."""
        self._lines.write(line_of(record))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def count_restarts(run: Path) -> int:
    """Number of times that the run in the folder ``run`` has been resumed."""
    path = run / METRICS_FILE
    if not path.exists():
        return 0
    return sum(record["kind"] == ResumedRecord.KIND for record in log.read_json_lines(path))


def scalars(record: MetricsRecord) -> dict[str, float]:
    """The numbers of ``record`` by chart, e.g. ``train/loss_by_pause_run/2`` or ``validation/DATASET/loss``."""
    line = line_of(record)
    prefix = "/".join([line["kind"], *([line["dataset"]] if "dataset" in line else [])])
    return dict(_numbers(prefix, {name: value for name, value in line.items() if name != "iteration"}))


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}/{name}", value)
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}/{name}", value


class TensorBoard:
    """Charts in an event file in ``folder``; view them with ``tensorboard --logdir FOLDER``."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._open: type[SummaryWriter] = SummaryWriter
        self._writer: SummaryWriter | None = None

    def write(self, record: MetricsRecord) -> None:
        """Add a point to the chart of each number.

        The first record decides where earlier event files end: a crash lost the steps after the checkpoint, so
        TensorBoard must hide their points.
        """
        if self._writer is None:
            first_step = record.iteration + isinstance(record, ResumedRecord)  # the step after the checkpoint
            self._writer = self._open(str(self._folder), purge_step=first_step)
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.iteration)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """Charts in a W&B run with the name of the run folder. W&B keeps its own files in ``FOLDER/wandb``."""

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        """Start or continue the W&B run of ``folder``. Raises :class:`UserError` if W&B refuses, e.g. without login."""
        import wandb

        id_file = folder / WANDB_RUN_ID_FILE
        if not id_file.exists():
            write_text(id_file, uuid.uuid4().hex[:8])
        run_id = id_file.read_text(encoding="utf-8").strip()
        try:
            self._run = wandb.init(
                project=project, id=run_id, name=folder.name, dir=str(folder), config=config, resume="allow"
            )
        except wandb.Error as error:
            raise UserError(
                f"--wandb-project {project}: {one_line(error).rstrip('.')}; run 'wandb login', or set"
                " WANDB_MODE=offline to keep the reports in the run folder"
            ) from error
        # W&B's own step count cannot decrease, but a run that resumes from a checkpoint repeats iterations.
        self._run.define_metric("*", step_metric="iteration")

    def write(self, record: MetricsRecord) -> None:
        """Send the numbers of ``record`` through W&B's background process."""
        self._run.log({"iteration": record.iteration, **scalars(record)})

    def close(self) -> None:
        """Wait until everything is sent, and mark the W&B run as finished."""
        self._run.finish()
