"""Where records go: a line for a person, JSON lines, and on request TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pause_megatron import log
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.training.watching.metrics_file import open_metrics_file
from pause_megatron.training.watching.progress import ProgressLines
from pause_megatron.training.watching.records import Record

TENSORBOARD_FOLDER = "tensorboard"


class Sink(Protocol):
    """Takes the records of a run in order; on rank 0 only."""

    def write(self, record: Record) -> None:
        """Take one record, and see to it that it survives this process."""

    def close(self) -> None:
        """End; there will be no more records."""


class Sinks:
    """All the sinks of a run. What one of them cannot write is lost, and said to be: it is no reason to end a run."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def write(self, record: Record) -> None:
        """Give ``record`` to every sink."""
        for sink in self._sinks:
            with _lost(sink, f"the record of iteration {record['iteration']}"):
                sink.write(record)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            with _lost(sink, "its last records"):
                sink.close()


@contextmanager
def _lost(sink: Sink, what: str) -> Iterator[None]:
    """Turn an error of the block, such as a full disk or a network gone, into a warning that ``what`` is lost."""
    try:
        yield
    except Exception as error:
        log.warn(f"{type(sink).__name__} lost {what}: {' '.join(str(error).split())}")


def open_sinks(config: PretrainConfig) -> Sinks:
    """The sinks that ``config.logging`` asks for, in the run's folder.

    Raises :class:`~pause_megatron.errors.UserError` when one of them cannot be opened.
    """
    sinks: list[Sink] = [ProgressLines(config.training.train_iters), open_metrics_file(config.output)]
    # The packages of the other two are imported by runs that want them.
    if config.logging.tensorboard:
        from pause_megatron.training.watching.tensorboard import TensorBoard

        sinks.append(TensorBoard(config.output / TENSORBOARD_FOLDER))
    if project := config.logging.wandb_project:
        from pause_megatron.training.watching.wandb import WeightsAndBiases

        sinks.append(WeightsAndBiases(config.output, project, to_plain(config)))
    return Sinks(sinks)
