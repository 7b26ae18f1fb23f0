"""Metrics of a run: collects losses, throughput and memory of its steps, and writes them as records."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pause_megatron.config.deepspeed import Precision
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.costs.devices import find_device
from pause_megatron.costs.flops import training_flops
from pause_megatron.engine.updater import Update
from pause_megatron.parallel.collectives import max_over_ranks, run_on_rank_0
from pause_megatron.parallel.process_device import device
from pause_megatron.records.checkpoint_state import CheckpointState
from pause_megatron.records.pretraining import BadBatchRecord, ResumedRecord, TrainRecord, ValidationRecord, perplexity
from pause_megatron.training.inputs import PretrainInputs
from pause_megatron.training.loss import LONGEST_RUN, Losses
from pause_megatron.training.metrics.pause_embedding import PauseEmbedding
from pause_megatron.training.metrics.sinks import Sink, Sinks, count_restarts, open_sinks
from pause_megatron.training.schedule import BatchSchedule

RUN_NAMES = (*(str(length) for length in range(LONGEST_RUN)), f"{LONGEST_RUN}+")
"""Names of runs of pauses by their length: "0" to "7", and "8+" for longer ones."""


class Metrics:
    """Metrics of training and validation. Every rank calls the same methods; only rank 0 writes records."""

    def __init__(
        self, config: PretrainConfig, inputs: PretrainInputs, pause_embeddings: Mapping[str, PauseEmbedding]
    ) -> None:
        """Open the sinks; ``pause_embeddings`` are those of the pauses by name.

        Raises :class:`UserError` on every rank when a sink cannot be opened.
        """
        self.real_tokens = 0
        self.pause_tokens = 0
        self._inputs = inputs
        self._pause_embeddings = pause_embeddings
        self._total_samples = BatchSchedule(config.training).consumed_samples(config.training.train_iters)
        self._throughput = Throughput(config, inputs)
        self._clock = TrainingClock()
        self._samples_timed = 0
        self._interval = Interval()
        self._restarts = count_restarts(config.output) if dist.get_rank() == 0 else 0
        opened: list[Sink] = []
        run_on_rank_0(lambda: opened.extend(open_sinks(config)))
        self._sinks = Sinks(opened)

    def resume(self, checkpoint: Path, state: CheckpointState) -> None:
        """Continue from ``checkpoint``, which has been loaded, and its ``state``."""
        self.real_tokens, self.pause_tokens = state.real_tokens, state.pause_tokens
        self._restarts += 1
        self._sinks.write(
            ResumedRecord(
                iteration=state.iteration,
                checkpoint=str(checkpoint),
                checkpoint_layout=state.layout,
                layout=str(self._inputs.layout),
                restarts=self._restarts,
            )
        )

    def start(self) -> None:
        """Start the clock, and measure the movement of the pause embedding from here."""
        self._clock.restart()
        for embedding in self._pause_embeddings.values():
            embedding.restart()

    def paused(self) -> AbstractContextManager[None]:
        """Stop the clock in the block, for example during validation and checkpoints."""
        return self._clock.paused()

    def count(self, losses: Losses, update: Update | None, batch_size: int) -> None:
        """Count one step of ``batch_size`` sequences; ``update`` is None if its batch was skipped."""
        self._interval.add(losses, update, batch_size)
        for embedding in self._pause_embeddings.values():
            embedding.end_step(update)
        self._samples_timed += batch_size
        self.real_tokens += batch_size * self._inputs.seq_length - losses.pauses
        self.pause_tokens += losses.pauses

    def log_training(self, iteration: int, consumed_samples: int, learning_rate: float) -> None:
        """Record the steps since the last record, up to ``iteration``.

        If all their batches were skipped there is no loss, and the next record includes these steps.
        """
        done = self._interval
        if not done.losses.targets:
            return
        embeddings = {name: embedding.measure() for name, embedding in self._pause_embeddings.items()}
        [memory] = max_over_ranks([peak_memory()])
        seconds = self._clock.lap()
        samples_left = self._total_samples - consumed_samples
        self._sinks.write(
            TrainRecord(
                iteration=iteration,
                consumed_samples=consumed_samples,
                steps=done.steps,
                skipped_steps=done.skipped_steps,
                batch_size=done.batch_size,
                **loss_fields(done.losses),
                last_loss=done.last_loss,
                grad_norm=done.grad_norm,
                loss_scale=done.loss_scale if self._inputs.deepspeed_file.precision == "fp16" else None,
                learning_rate=learning_rate,
                seconds_per_step=seconds / done.steps,
                **self._throughput.fields(done.sequences, seconds),
                seconds_left=self._clock.elapsed / self._samples_timed * samples_left,
                memory_bytes=memory,
                real_tokens=self.real_tokens,
                pause_tokens=self.pause_tokens,
                pause_embedding=next(iter(embeddings.values())),
                pause_embeddings=embeddings if len(embeddings) > 1 else None,
            )
        )
        self._interval = Interval()

    def log_bad_batch(self, iteration: int, reason: str, documents: Sequence[str]) -> None:
        """Record that the batch of step ``iteration`` changed no weight, with the documents it was made of."""
        self._sinks.write(BadBatchRecord(iteration=iteration, reason=reason, documents=tuple(documents)))

    def log_validation(self, iteration: int, dataset: str, pauses: str, real_tokens: int, **losses: Any) -> None:
        """Record a validation on ``dataset``; ``losses`` are fields of the record, such as :func:`loss_fields`."""
        self._sinks.write(
            ValidationRecord(iteration=iteration, dataset=dataset, pauses=pauses, real_tokens=real_tokens, **losses)
        )

    def close(self) -> None:
        """Close the sinks."""
        self._sinks.close()


def loss_fields(losses: Losses) -> dict[str, Any]:
    """The fields of a record that depend on ``losses``: means over all targets and by the pauses before them."""
    fields: dict[str, Any] = {
        "loss": losses.mean,
        "perplexity": perplexity(losses.mean),
        "loss_after_real": losses.after_run(0),
    }
    if losses.after_pause is not None:
        lengths = [length for length, count in enumerate(losses.counts) if count]
        fields["loss_after_pause"] = losses.after_pause
        fields["loss_by_pause_run"] = {RUN_NAMES[length]: losses.after_run(length) for length in lengths}
        fields["targets_by_pause_run"] = {RUN_NAMES[length]: losses.counts[length] for length in lengths}
    return fields


@dataclass(kw_only=True)
class Interval:
    """Sums over the steps since the last record; equal on every rank."""

    losses: Losses = field(default_factory=Losses)
    """Without steps whose batch was skipped."""
    last_loss: float = 0.0
    """Mean loss of the last of these steps, nats."""
    steps: int = 0
    skipped_steps: int = 0
    """Steps that changed no weight: the batch was skipped, or its gradients were not finite."""
    sequences: int = 0
    batch_size: int = 0
    """Sequences of the last step."""
    grad_norm: float | None = None
    """Global gradient norm before clipping, of the last step that changed weights."""
    loss_scale: float = 1.0
    """Loss scale of the last step whose batch was not skipped."""

    def add(self, losses: Losses, update: Update | None, batch_size: int) -> None:
        """Add a step; ``update`` is None if its batch was skipped."""
        self.steps += 1
        self.sequences += batch_size
        self.batch_size = batch_size
        if update is None or not update.applied:
            self.skipped_steps += 1
        else:
            self.grad_norm = update.grad_norm
        if update is not None:
            self.losses += losses
            self.last_loss = losses.mean
            self.loss_scale = update.loss_scale


class TrainingClock:
    """Clock that can be paused, for the time of training without validation and checkpoints. Seconds throughout."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.restart()

    def restart(self) -> None:
        """Set the clock to 0."""
        self._started = self._lap_began = self._now()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the current lap."""
        began = self._now()
        try:
            yield
        finally:
            self._lap_began += self._now() - began

    def lap(self) -> float:
        """Time since the last lap, without pauses of the clock."""
        now = self._now()
        seconds, self._lap_began = now - self._lap_began, now
        return seconds

    @property
    def elapsed(self) -> float:
        """Time since the start, with pauses of the clock."""
        return self._now() - self._started


class Throughput:
    """Tokens/s, TFLOP/s and MFU of a run."""

    def __init__(self, config: PretrainConfig, inputs: PretrainInputs) -> None:
        self._seq_length = inputs.seq_length
        flops = training_flops(config.model, vocab_size=inputs.tokenizer.vocab_size, seq_length=inputs.seq_length).model
        self._tflop_per_sequence = flops / 1e12 / inputs.layout.world_size  # on each device
        self._peak_tflops = config.logging.peak_tflops or _datasheet_peak(inputs.deepspeed_file.precision)

    def fields(self, sequences: int, seconds: float) -> dict[str, Any]:
        """The fields of a record for ``sequences`` in ``seconds``; MFU is None if the device's peak is unknown."""
        tflops = sequences * self._tflop_per_sequence / seconds
        return {
            "tokens_per_second": sequences * self._seq_length / seconds,
            "tflops_per_device": tflops,
            "mfu": tflops / self._peak_tflops if self._peak_tflops else None,
        }


def _datasheet_peak(precision: Precision) -> float | None:
    """Peak of this rank's GPU in TFLOP/s; None for a CPU and for an unknown GPU."""
    found = find_device(torch.cuda.get_device_name()) if device().type == "cuda" else None
    return found.peak_tflops(precision) if found else None


def peak_memory() -> int:
    """Peak memory of this process in bytes: of tensors on the GPU since the last call, else the resident set so far."""
    if device().type == "cuda":
        peak: int = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
