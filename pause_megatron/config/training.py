"""How a model is trained: optimizer, learning-rate schedule, batches, and how often the run is validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, and its learning rate: linear warm-up, then a schedule. The paper leaves all of this open."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Decay after the warm-up: along half a cosine or a line to the end; constant and then, in the last part of the
    run, down with one minus a square root (warm-up, stable, decay); or none."""
    min_learning_rate_fraction: float = 0.1
    """Learning rate at the end, as a fraction of the peak."""
    warmup_fraction: float = 0.01
    """Share of the iterations with linear warm-up."""
    decay_fraction: float = 0.2
    """For wsd, share of the iterations in which the learning rate decays."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; biases and norms have none."""
    adam_beta1: float = 0.9
    """Decay of the gradient's moving average."""
    adam_beta2: float = 0.95
    """Decay of the squared gradient's moving average."""
    adam_eps: float = 1e-8
    """Added to the denominator of the update."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"--learning-rate {self.learning_rate}: must be positive")
        if not 0 <= self.warmup_fraction < 1:
            raise UserError(f"--warmup-fraction {self.warmup_fraction}: must be at least 0 and below 1")
        if not 0 <= self.min_learning_rate_fraction <= 1:
            raise UserError(f"--min-learning-rate-fraction {self.min_learning_rate_fraction}: must be between 0 and 1")
        if self.schedule == "wsd" and not 0 < self.decay_fraction <= 1 - self.warmup_fraction:
            raise UserError(
                f"--decay-fraction {self.decay_fraction}: must be above 0, and at most 1 - --warmup-fraction"
                f" {self.warmup_fraction}"
            )
        require_at_least(0, weight_decay=self.weight_decay, clip_grad=self.clip_grad)
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 0 and below 1")
        if self.adam_eps <= 0:
            raise UserError(f"--adam-eps {self.adam_eps}: must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Batches and the run's rhythm."""

    train_iters: int
    """Optimizer steps of the whole run."""
    global_batch_size: int = 256
    """Sequences a step, over all data-parallel processes."""
    rampup_batch_size: tuple[int, ...] = ()
    """Batch ramp-up as START INCREMENT SAMPLES: the first steps have START sequences, and over the first SAMPLES
    sequences the batch grows by INCREMENT at a time to global_batch_size. None: it is constant."""
    micro_batch_size: int = 1
    """Sequences a process computes at once."""
    seq_length: int = 0
    """Tokens a sample is cut to from document datasets; 0: as long as the other data's sequences, or else
    max_position_embeddings."""
    seed: int = 1234
    """Seed of the initial weights and of the data order; neither depends on the layout."""
    validation_interval: int = 1000
    """Steps between validations; the last step is always validated."""
    validation_sequences: int = 1024
    """Sequences a validation reads from each dataset, at most."""

    def __post_init__(self) -> None:
        require_at_least(1, train_iters=self.train_iters)
        require_at_least(1, global_batch_size=self.global_batch_size, micro_batch_size=self.micro_batch_size)
        require_at_least(1, validation_interval=self.validation_interval)
        require_at_least(1, validation_sequences=self.validation_sequences)
        require_at_least(0, seq_length=self.seq_length)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: must be at least 0 and below 2^32")

        self._check_rampup()

    def _check_rampup(self) -> None:
        if not self.rampup_batch_size:
            return
        given = " ".join(map(str, self.rampup_batch_size))
        if len(self.rampup_batch_size) != 3 or min(self.rampup_batch_size) < 1:
            raise UserError(f"--rampup-batch-size {given}: expected START INCREMENT SAMPLES, each at least 1")
        start, increment, _ = self.rampup_batch_size
        if start >= self.global_batch_size or (self.global_batch_size - start) % increment:
            raise UserError(
                f"--rampup-batch-size {given}: START {start} must reach --global-batch-size {self.global_batch_size} in"
                f" whole steps of INCREMENT {increment}"
            )

    def batch_sizes(self) -> list[int]:
        """Sequences a step, for every size the run's batches have, ascending."""
        if not self.rampup_batch_size:
            return [self.global_batch_size]
        start, increment, _ = self.rampup_batch_size
        return list(range(start, self.global_batch_size + 1, increment))

    def num_microbatches(self, data_parallel_size: int, batch_size: int | None = None) -> int:
        """Microbatches a process computes in a step of ``batch_size`` sequences, by default of global_batch_size.

        Raises :class:`UserError` when the batch does not divide.
        """
        samples_a_pass = self.micro_batch_size * data_parallel_size
        batch_size = batch_size or self.global_batch_size
        if batch_size % samples_a_pass:
            flag = "--rampup-batch-size: a batch of" if self.rampup_batch_size else "--global-batch-size"
            raise UserError(
                f"{flag} {batch_size} is not a multiple of --micro-batch-size {self.micro_batch_size} x"
                f" {data_parallel_size} data-parallel processes"
            )
        return batch_size // samples_a_pass
