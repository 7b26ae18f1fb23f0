"""How a model is trained: optimizer, learning-rate schedule, batches, and how often the run is validated."""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay; the paper leaves these open."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    min_learning_rate_fraction: float = 0.1
    """Learning rate at the end, as a fraction of the peak."""
    warmup_fraction: float = 0.01
    """Share of the iterations with linear warm-up."""
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


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Batches and the run's rhythm."""

    train_iters: int
    """Optimizer steps of the whole run."""
    global_batch_size: int = 256
    """Sequences a step, over all data-parallel processes."""
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

    def num_microbatches(self, data_parallel_size: int) -> int:
        """Microbatches a process computes each step. Raises :class:`UserError` when the batch does not divide."""
        samples_a_pass = self.micro_batch_size * data_parallel_size
        if self.global_batch_size % samples_a_pass:
            raise UserError(
                f"--global-batch-size {self.global_batch_size} is not a multiple of --micro-batch-size"
                f" {self.micro_batch_size} x {data_parallel_size} data-parallel processes"
            )
        return self.global_batch_size // samples_a_pass
