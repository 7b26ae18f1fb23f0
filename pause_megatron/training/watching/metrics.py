"""What a run reports about itself, from the losses of its steps to the records that sinks write."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.engine.update import Update
from pause_megatron.errors import UserError
from pause_megatron.parallel.collectives import max_over_ranks, raise_on_all_ranks
from pause_megatron.records.checkpoint_state import CheckpointState
from pause_megatron.training.inputs import PretrainInputs
from pause_megatron.training.loss import Losses
from pause_megatron.training.schedule import BatchSchedule
from pause_megatron.training.watching.clock import TrainingClock
from pause_megatron.training.watching.interval import Interval
from pause_megatron.training.watching.memory import memory_used
from pause_megatron.training.watching.metrics_file import count_restarts
from pause_megatron.training.watching.pause_embedding import PauseEmbedding
from pause_megatron.training.watching.records import Record, loss_figures, mean_figures
from pause_megatron.training.watching.sinks import Sinks, open_sinks
from pause_megatron.training.watching.speed import Speed


class Metrics:
    """Follows training and validation of a run. Every process makes one and calls it alike; only rank 0 writes.

    ``docs/watching.md`` explains the records.
    """

    def __init__(self, config: PretrainConfig, inputs: PretrainInputs, pause_embedding: PauseEmbedding) -> None:
        """Open the sinks. Raises :class:`UserError` on every process when one of them cannot be opened."""
        self.real_tokens = 0
        self.pause_tokens = 0
        self._inputs = inputs
        self._pause_embedding = pause_embedding
        self._total_samples = BatchSchedule(config.training).consumed_samples(config.training.train_iters)
        self._speed = Speed(config, inputs)
        self._clock = TrainingClock()
        self._samples_timed = 0
        self._interval = Interval()
        self._restarts = count_restarts(config.output) if dist.get_rank() == 0 else 0
        self._sinks = _open_on_rank_0(config)

    def resume(self, checkpoint: Path, state: CheckpointState) -> None:
        """Go on from ``checkpoint`` and its ``state``, which have been loaded."""
        self.real_tokens, self.pause_tokens = state.real_tokens, state.pause_tokens
        self._restarts += 1
        self._write(
            kind="resumed",
            iteration=state.iteration,
            checkpoint=str(checkpoint),
            checkpoint_layout=state.layout,
            layout=str(self._inputs.layout),
            restarts=self._restarts,
        )

    def start(self) -> None:
        """Training begins now: rates and the pause embedding's movement count from here."""
        self._clock.restart()
        self._pause_embedding.restart()

    def paused(self) -> AbstractContextManager[None]:
        """A block that is not training (validation, a checkpoint) and that rates leave out."""
        return self._clock.paused()

    def count(self, losses: Losses, update: Update | None, batch_size: int) -> None:
        """Count one step of ``batch_size`` sequences; ``update`` is None when its batch was dropped."""
        self._interval.add(losses, update, batch_size)
        self._pause_embedding.end_step(update)
        self._samples_timed += batch_size
        self.real_tokens += batch_size * self._inputs.seq_length - losses.pauses
        self.pause_tokens += losses.pauses

    def log_training(self, iteration: int, consumed_samples: int, learning_rate: float) -> None:
        """Report the steps since the last report, of which ``iteration`` is the last.

        When all their batches were dropped there is no loss to report, and the next report tells of them too.
        """
        done = self._interval
        if not done.losses.targets:
            return
        embedding = self._pause_embedding.figures()
        [memory] = max_over_ranks([memory_used()])
        seconds = self._clock.lap()
        samples_left = self._total_samples - consumed_samples
        record: Record = {"kind": "train", "iteration": iteration, "consumed_samples": consumed_samples}
        record |= {"steps": done.steps, "skipped_steps": done.skipped_steps, "batch_size": done.batch_size}
        record |= loss_figures(done.losses) | {"last_loss": done.last_loss}
        if done.grad_norm is not None:
            record["grad_norm"] = done.grad_norm
        if self._inputs.deepspeed_file.precision == "fp16":
            record["loss_scale"] = done.loss_scale
        record |= {
            "learning_rate": learning_rate,
            "seconds_per_step": seconds / done.steps,
            **self._speed.figures(done.sequences, seconds),
            "seconds_left": self._clock.elapsed / self._samples_timed * samples_left,
            "memory_bytes": memory,
            "real_tokens": self.real_tokens,
            "pause_tokens": self.pause_tokens,
            "pause_embedding": embedding,
        }
        self._write(**record)
        self._interval = Interval()

    def log_bad_batch(self, iteration: int, reason: str, documents: Sequence[str]) -> None:
        """Report that the batch of step ``iteration`` changed no weight, why, and the documents it was made of."""
        self._write(kind="bad_batch", iteration=iteration, reason=reason, documents=list(documents))

    def log_validation(self, iteration: int, dataset: str, pauses: str, losses: Losses) -> None:
        """Report the losses on one held-out dataset, whose pause strategy is ``pauses``."""
        self._log_validation(iteration, dataset, pauses, loss_figures(losses), losses.targets)

    def log_mean_validation(self, iteration: int, name: str, pauses: str, loss: float, real_tokens: int) -> None:
        """Report a mean over held-out datasets under ``name``."""
        self._log_validation(iteration, name, pauses, mean_figures(loss), real_tokens)

    def _log_validation(self, iteration: int, dataset: str, pauses: str, figures: Record, real_tokens: int) -> None:
        place = {"iteration": iteration, "dataset": dataset, "pauses": pauses}
        self._write(kind="validation", **place, **figures, real_tokens=real_tokens)

    def close(self) -> None:
        """Close the sinks."""
        self._sinks.close()

    def _write(self, **record: Any) -> None:
        self._sinks.write(record)


def _open_on_rank_0(config: PretrainConfig) -> Sinks:
    """The sinks; none on other processes than rank 0."""
    sinks, failure = Sinks([]), None
    if dist.get_rank() == 0:
        try:
            sinks = open_sinks(config)
        except UserError as error:
            failure = str(error)
    raise_on_all_ranks(failure)
    return sinks
