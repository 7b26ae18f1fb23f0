"""Settings of a training run: optimizer and schedule, batches, checkpoints, faults and logging."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from pause_megatron.config.checks import require_at_least, require_fraction, require_positive
from pause_megatron.config.pausing import PauseInputs, check_pause_inputs
from pause_megatron.errors import UserError
from pause_megatron.optional_packages import install_command


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule: linear warmup, then decay. The paper gives no values for these."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Decay after the warmup: half a cosine, a line, wsd (constant, then 1 - sqrt over the last --decay-fraction of
    the run), or none."""
    min_learning_rate_fraction: float = 0.1
    """Learning rate at the end, as a fraction of the peak."""
    warmup_fraction: float = 0.01
    """Fraction of the iterations with linear warmup."""
    decay_fraction: float = 0.2
    """Fraction of the iterations with decay; wsd only."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; biases and norms have none."""
    adam_beta1: float = 0.9
    """Decay of the gradient's moving average."""
    adam_beta2: float = 0.95
    """Decay of the squared gradient's moving average."""
    adam_eps: float = 1e-8
    """Addend in the denominator of the update."""
    clip_grad: float = 1.0
    """Largest global gradient norm (0: no clipping)."""

    def __post_init__(self) -> None:
        require_positive(learning_rate=self.learning_rate, adam_eps=self.adam_eps)
        require_fraction(warmup_fraction=self.warmup_fraction, adam_beta1=self.adam_beta1, adam_beta2=self.adam_beta2)
        require_at_least(0, weight_decay=self.weight_decay, clip_grad=self.clip_grad)
        if not 0 <= self.min_learning_rate_fraction <= 1:
            raise UserError(f"--min-learning-rate-fraction {self.min_learning_rate_fraction}: must be between 0 and 1")
        if self.schedule == "wsd" and not 0 < self.decay_fraction <= 1 - self.warmup_fraction:
            raise UserError(
                f"--decay-fraction {self.decay_fraction}: must be above 0 and at most 1 - --warmup-fraction"
                f" {self.warmup_fraction}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Batches, sequence length, seed and validation."""

    train_iters: int
    """Optimizer steps of the run."""
    global_batch_size: int = 256
    """Sequences in a step, over all data-parallel ranks."""
    rampup_batch_size: tuple[int, ...] = ()
    """Batch ramp-up as START INCREMENT SAMPLES: steps have START sequences at first and grow by INCREMENT to
    --global-batch-size over the first SAMPLES sequences, for example 32 32 1000000 (none: no ramp-up)."""
    micro_batch_size: int = 1
    """Sequences in one forward and backward pass of a rank."""
    seq_length: int = 0
    """Tokens of a sample from document datasets (0: the length of the other datasets' sequences, or else
    --max-position-embeddings)."""
    pause_inputs: PauseInputs = "pause"
    """Input at the pauses of the data: <pause>, or the real token before them again (repeat), a control with the same
    computation and without <pause>. Their targets carry no loss in either case."""
    filler: str | None = None
    """Text to read at the pauses of the data instead of <pause>, token by token and from the start again at the end of
    the text; each run of pauses starts it anew. Their targets carry no loss (default: <pause>)."""
    seed: int = 1234
    """Seed of the initial weights and of the data order; neither depends on the layout."""
    validation_interval: int = 1000
    """Steps between validations; the last step is always validated."""
    validation_sequences: int = 1024
    """Largest number of sequences to validate on, for each held-out dataset."""

    def __post_init__(self) -> None:
        require_at_least(1, train_iters=self.train_iters, global_batch_size=self.global_batch_size)
        require_at_least(1, micro_batch_size=self.micro_batch_size, validation_interval=self.validation_interval)
        require_at_least(1, validation_sequences=self.validation_sequences)
        require_at_least(0, seq_length=self.seq_length)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: must be at least 0 and below 2^32")
        check_pause_inputs(None if self.pause_inputs == "pause" else self.pause_inputs, self.filler)
        if self.rampup_batch_size:
            self._check_rampup(*self.rampup_batch_size)

    def _check_rampup(self, *rampup: int) -> None:
        flag = f"--rampup-batch-size {' '.join(map(str, rampup))}"
        if len(rampup) != 3 or min(rampup) < 1:
            raise UserError(f"{flag}: expected START INCREMENT SAMPLES, each at least 1")
        start, increment, _ = rampup
        end = self.global_batch_size
        if start >= end or (end - start) % increment:
            raise UserError(f"{flag}: START must reach --global-batch-size {end} in steps of INCREMENT")

    def batch_sizes(self) -> list[int]:
        """Every batch size of the run in sequences, ascending."""
        if not self.rampup_batch_size:
            return [self.global_batch_size]
        start, increment, _ = self.rampup_batch_size
        return list(range(start, self.global_batch_size + 1, increment))

    def num_microbatches(self, data_parallel_size: int, batch_size: int) -> int:
        """Microbatches of each rank for ``batch_size`` sequences. Raises :class:`UserError` if it does not divide."""
        samples_per_pass = self.micro_batch_size * data_parallel_size
        if batch_size % samples_per_pass:
            flag = "--rampup-batch-size: a batch of" if self.rampup_batch_size else "--global-batch-size"
            raise UserError(
                f"{flag} {batch_size} is not a multiple of --micro-batch-size {self.micro_batch_size} x"
                f" {data_parallel_size} data-parallel ranks"
            )
        return batch_size // samples_per_pass


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints: how often to save, and which to keep."""

    save_interval: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Number of newest complete checkpoints to keep; older ones are removed."""
    keep_every: int = 0
    """Keep every checkpoint whose step is a multiple of this number forever (0: off)."""
    async_save: bool = False
    """Write checkpoints in the background, from a copy of the optimizer state in CPU memory (12 bytes for each
    parameter that a rank updates)."""

    def __post_init__(self) -> None:
        require_at_least(1, save_interval=self.save_interval, keep_checkpoints=self.keep_checkpoints)
        require_at_least(0, keep_every=self.keep_every)


@dataclass(frozen=True, kw_only=True)
class FaultsConfig:
    """Bad batches, dead ranks, and the time limit."""

    exit_duration: float = 0.0
    """Time limit in minutes, after which the run saves and ends with exit code 85, to be queued again (0: none)."""
    spike_factor: float = 3.0
    """Threshold for loss spikes: a batch is bad if its loss exceeds this many times the median of the last
    --spike-window good losses (0: only losses and gradients that are not finite are bad)."""
    spike_window: int = 128
    """Good losses in that median; spikes are not detected before there are this many."""
    on_bad_batch: Literal["stop", "skip"] = "stop"
    """Response to a bad batch: stop the run and report the batch's documents, or skip the batch; the batch changes no
    weight in either case."""
    max_bad_batches: int = 10
    """Number of bad batches in a row at which a run with --on-bad-batch skip stops."""
    dead_rank_timeout: float = 60.0
    """Heartbeat timeout in seconds: a rank that is silent for longer counts as dead, and the run ends with exit code
    86. A rank that crashed or was killed is noticed at once."""
    collective_timeout: float = 30.0
    """Timeout of a collective in minutes; before the first step also the heartbeat timeout."""

    def __post_init__(self) -> None:
        require_at_least(0, exit_duration=self.exit_duration, spike_factor=self.spike_factor)
        require_at_least(1, spike_window=self.spike_window, max_bad_batches=self.max_bad_batches)
        if 0 < self.spike_factor <= 1:
            raise UserError(f"--spike-factor {self.spike_factor}: must be above 1, or 0")
        require_positive(dead_rank_timeout=self.dead_rank_timeout, collective_timeout=self.collective_timeout)


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Metrics in addition to the progress lines and metrics.jsonl. docs/metrics.md explains every number."""

    log_interval: int = 10
    """Steps between progress lines."""
    tensorboard: bool = False
    """Also write TensorBoard event files to OUTPUT/tensorboard; needs the package tensorboard."""
    wandb_project: str = ""
    """Weights & Biases project to report to; needs the package wandb (empty: off)."""
    peak_tflops: float = 0.0
    """Peak rate of one device in TFLOP/s, for the utilisation (MFU) (0: the datasheet value of a known device)."""

    def __post_init__(self) -> None:
        require_at_least(1, log_interval=self.log_interval)
        require_at_least(0, peak_tflops=self.peak_tflops)
        if self.tensorboard:
            _require_package("tensorboard", "--tensorboard")
        if self.wandb_project:
            _require_package("wandb", f"--wandb-project {self.wandb_project}")


def _require_package(name: str, flag: str) -> None:
    spec = find_spec(name)
    # A folder ./tensorboard or ./wandb, which both tools create, is found as a package without an origin.
    if spec is None or spec.origin is None:
        command = install_command(name) or f"pip install {name}"
        raise UserError(f"{flag}: needs the package {name}, which is not installed; run {command}, or omit the flag")
