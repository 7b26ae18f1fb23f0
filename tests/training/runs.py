"""Small training runs on random batches, the same under every layout; used by the tests of training and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state

from pause_megatron.checkpoint.load import load, open_verified
from pause_megatron.checkpoint.saver import CheckpointSaver
from pause_megatron.config.deepspeed import TORCH_DTYPES, DeepSpeedFile, deepspeed_file
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.config.serialize import to_plain
from pause_megatron.config.training import CheckpointConfig, OptimizerConfig, TrainingConfig
from pause_megatron.data.batches import Batch, own_positions
from pause_megatron.engine.build import build_engine
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.schedule import learning_rate
from pause_megatron.training.step import Stepper

VOCAB_SIZE = 250
PAUSE_ID = 2
SEQ_LENGTH = 32
STEPS = 20
"""Length of the learning rate schedule."""
FEW_STEPS = 6
"""Steps of a run by default: with clipping, Adam's moments and the warm-up in effect."""
GPT2 = ModelConfig(num_layers=4, hidden_size=64, num_attention_heads=8, max_position_embeddings=64)
LLAMA = ModelConfig(
    architecture="llama",
    num_layers=4,
    hidden_size=64,
    num_attention_heads=8,
    num_query_groups=4,
    max_position_embeddings=64,
)
LLAMA3 = replace(
    LLAMA,
    use_rope_scaling=True,
    rope_scaling_factor=4.0,
    rope_low_freq_factor=0.25,
    rope_high_freq_factor=2.5,
    rope_original_max_position_embeddings=20,
)
"""Scaled for more positions than 20; of the four frequencies one stays, one is interpolated and two are divided."""
QWEN2 = replace(LLAMA, add_qkv_bias=True)
QWEN3 = replace(LLAMA, qk_layernorm=True, kv_channels=12, init_method_std=0.2)
"""With larger weights, so that the gradients of the norms count: with 0.02 one that is not reduced changes less than
the tolerance of a comparison."""
TRAINING = TrainingConfig(train_iters=STEPS, global_batch_size=8, micro_batch_size=2)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.2)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One small run: model, layout, steps, and checkpoints to load and save."""

    model: ModelConfig = GPT2
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    zero_stage: int = 1
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Additional DeepSpeed settings; those of zero_optimization are merged with the stage."""
    seed: int = 7
    first_step: int = 0
    last_step: int = FEW_STEPS
    load: Path | None = None
    save: Path | None = None

    @property
    def deepspeed_file(self) -> DeepSpeedFile:
        """The DeepSpeed settings, as if read from a file."""
        # ZeRO-0 and ZeRO-1 have several buckets also for these small models.
        bucket = 30_000 if self.zero_stage <= 1 else 5_000_000
        zero = {"stage": self.zero_stage, "reduce_bucket_size": bucket, "allgather_bucket_size": 5_000_000}
        zero |= self.deepspeed.get("zero_optimization", {})
        return deepspeed_file(Path("test.json"), {**self.deepspeed, "zero_optimization": zero})

    def __str__(self) -> str:
        return f"{self.parallel} ZeRO-{self.zero_stage}"


def random_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``[8, SEQ_LENGTH + 1]`` with very uneven shares of pauses, and their loss mask ``[8, SEQ_LENGTH]``."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(3, VOCAB_SIZE, (TRAINING.global_batch_size, SEQ_LENGTH + 1), generator=generator)
    shares = torch.linspace(0, 0.9, TRAINING.global_batch_size)[:, None]
    tokens[torch.rand(tokens.shape, generator=generator) < shares] = PAUSE_ID
    return tokens, (tokens[:, 1:] != PAUSE_ID).float()


def own_batch(step: int, *, shares_positions: bool = False) -> Batch:
    """This data-parallel rank's part of :func:`random_batch`."""
    tokens, _ = random_batch(step)
    return batch_of(tokens, shares_positions=shares_positions)


def batch_of(
    samples: torch.Tensor, micro_batch_size: int = TRAINING.micro_batch_size, *, shares_positions: bool = False
) -> Batch:
    """This data-parallel rank's part of ``samples``, ``[sequences, length + 1]``."""
    dp = parallel_state.get_data_parallel_world_size()
    own = own_positions(
        0,
        num_microbatches=len(samples) // (dp * micro_batch_size),
        micro_batch_size=micro_batch_size,
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=dp,
    )
    own_samples = samples[list(own)].unflatten(0, (-1, micro_batch_size))
    return Batch.of(own_samples, PAUSE_ID, shares_positions=shares_positions)


def train(run: Run) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step of ``run``; every rank must call it."""
    return train_all([run])[0]


def train_all(runs: Sequence[Run]) -> list[list[tuple[float, float]]]:
    """Loss and gradient norm of every step of several runs, one after the other on the same ranks."""
    found = []
    try:
        for run in runs:
            found.append(_train(run))
            parallel_state.destroy_model_parallel()
    finally:
        destroy_process_groups()
    return found


def _train(run: Run) -> list[tuple[float, float]]:
    launch = detect_launch()
    layout = resolve_layout(
        run.parallel, world_size=launch.world_size, model=run.model, vocab_size=VOCAB_SIZE, deepspeed=run.deepspeed_file
    )
    initialize_process_groups(launch, layout, seed=run.seed)
    dtype = getattr(torch, TORCH_DTYPES[run.deepspeed_file.precision])
    model = build_local_model(run.model, layout, vocab_size=VOCAB_SIZE, seed=run.seed, dtype=dtype)
    engine = build_engine(model, deepspeed_file=run.deepspeed_file, optimizer=OPTIMIZER, training=TRAINING)
    stepper = Stepper(model, engine, layout, device())
    if run.load:
        load(open_verified(run.load), parameters=model.parameters, engine=engine)
    found = []
    for step in range(run.first_step, run.last_step):
        losses = stepper.accumulate(own_batch(step, shares_positions=run.model.shares_positions)).losses
        update = stepper.update(learning_rate(step, STEPS, OPTIMIZER))
        found.append((losses.mean, update.grad_norm))
    engine.updater.wait()
    if run.save:
        state: dict[str, Any] = {
            "iteration": run.last_step,
            "layout": str(layout),
            "vocab_size": VOCAB_SIZE,
            "config": {"model": to_plain(run.model)},
        }
        saver = CheckpointSaver(run.save, CheckpointConfig(), parameters=model.parameters, engine=engine)
        saver.save(run.last_step, state)
    return found


def largest_differences(expected: list[tuple[float, float]], found: list[tuple[float, float]]) -> tuple[float, float]:
    """Largest absolute loss difference and largest relative gradient-norm difference."""
    assert len(expected) == len(found)
    losses = max(abs(a[0] - b[0]) for a, b in zip(expected, found, strict=True))
    norms = max(abs(a[1] - b[1]) / a[1] for a, b in zip(expected, found, strict=True))
    return losses, norms
