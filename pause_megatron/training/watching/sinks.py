"""Where records go: a line for a person, JSON lines, and on request TensorBoard and Weights & Biases."""

from __future__ import annotations

from typing import Protocol

from pause_megatron import log
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.training.watching.progress import ProgressLines
from pause_megatron.training.watching.records import Record

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class Sink(Protocol):
    """Takes the records of a run in order; on rank 0 only."""

    def write(self, record: Record) -> None:
        """Take one record, and see to it that it survives this process."""

    def close(self) -> None:
        """End; there will be no more records."""


def open_sinks(config: PretrainConfig) -> list[Sink]:
    """The sinks that ``config.logging`` asks for, in the run's folder.

    Raises :class:`~pause_megatron.errors.UserError` when one of them cannot be opened.
    """
    sinks: list[Sink] = [ProgressLines(config.training.train_iters), log.JsonLines(config.output / METRICS_FILE)]
    # The packages of the other two are imported by runs that want them.
    if config.logging.tensorboard:
        from pause_megatron.training.watching.tensorboard import TensorBoard

        sinks.append(TensorBoard(config.output / TENSORBOARD_FOLDER))
    if project := config.logging.wandb_project:
        from pause_megatron.training.watching.wandb import WeightsAndBiases

        sinks.append(WeightsAndBiases(config.output, project, to_plain(config)))
    return sinks
