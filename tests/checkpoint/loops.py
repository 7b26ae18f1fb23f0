"""A small training loop that resumes, saves and polls as a run does."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from megatron.core import parallel_state

from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.checkpoint.load import resume_from_newest
from pause_megatron.checkpoint.saver import CheckpointSaver
from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.parallel import resolve_layout
from pause_megatron.config.training import CheckpointConfig
from pause_megatron.engine import Engine
from pause_megatron.engine.build import build_engine
from pause_megatron.engine.optimizer_state import loss_scaler_state, optimizer_step, reset_optimizer
from pause_megatron.errors import UserError
from pause_megatron.log import LINE
from pause_megatron.model.gpt import LocalModel, build_local_model
from pause_megatron.parallel.collectives import max_over_ranks
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.schedule import learning_rate
from pause_megatron.training.step import Stepper
from tests.training.runs import OPTIMIZER, STEPS, TRAINING, VOCAB_SIZE, Run, own_batch

Curve = list[tuple[float, float]]
"""Loss and gradient norm of every step."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A run that resumes from the newest checkpoint in ``folder``, if any, and trains until ``run.last_step``."""

    run: Run = field(default_factory=Run)
    folder: Path
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    drop_moments: bool = False
    """Set Adam's moments to zero after resuming, as a negative control."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a loop on one rank."""

    resumed: int
    """Step it resumed from; 0 if it started anew."""
    curve: Curve
    """Steps since ``resumed``."""
    busy: int
    """Steps after which a checkpoint was still being written."""
    loss_scaler: dict[str, float] | None
    """Final state of fp16's loss scaler."""
    warnings: list[str]
    """Logged warnings."""


def iteration_folder(folder: Path, iteration: int) -> Path:
    """The checkpoint of ``iteration`` of the run in ``folder``."""
    return folder / CHECKPOINTS / checkpoint_name(iteration)


def run_loops(loops: Sequence[Loop]) -> list[Outcome]:
    """Run ``loops`` one after the other; every rank must call this."""
    try:
        return [run_loop(loop) for loop in loops]
    finally:
        destroy_process_groups()


def errors_of(loops: Sequence[Loop]) -> list[str]:
    """Run ``loops``, each of which must raise ``UserError``, and return the messages; every rank must call this."""
    errors = []
    for loop in loops:
        with pytest.raises(UserError) as caught:
            run_loop(loop)
        errors.append(str(caught.value))
    return errors


def run_loop(loop: Loop) -> Outcome:
    """Run ``loop``; every rank must call this."""
    stderr = io.StringIO()
    with redirect_stderr(stderr), built(loop.run) as (model, engine, stepper):
        saver = CheckpointSaver(loop.folder / CHECKPOINTS, loop.checkpoint, parameters=model.parameters, engine=engine)
        resumed = resume_from_newest(loop.folder, parameters=model.parameters, engine=engine)
        first = resumed[1]["iteration"] if resumed else 0
        if loop.drop_moments:
            reset_optimizer(engine, optimizer_step(engine))
        curve, busy = [], 0
        for step in range(first, loop.run.last_step):
            losses = stepper.accumulate(own_batch(step)).losses
            update = stepper.update(learning_rate(step, STEPS, OPTIMIZER))
            curve.append((losses.mean, update.grad_norm))
            (unfinished,) = max_over_ranks([saver.unfinished])
            busy += unfinished
            saver.poll(unfinished)
            if (step + 1) % loop.checkpoint.save_interval == 0:
                state = {"iteration": step + 1, "note": "é"}
                saver.save(step + 1, state)
                state.clear()  # a pending save must have its own copy
        saver.wait()
        engine.updater.wait()
    warnings = [line for line in stderr.getvalue().splitlines() if LINE.match(line) and "warning: " in line]
    return Outcome(resumed=first, curve=curve, busy=busy, loss_scaler=loss_scaler_state(engine), warnings=warnings)


@contextmanager
def built(run: Run) -> Iterator[tuple[LocalModel, Engine, Stepper]]:
    """Yield the model, engine and stepper of ``run``, with its process groups inside the block."""
    launch, settings = detect_launch(), run.deepspeed_file
    layout = resolve_layout(
        run.parallel, world_size=launch.world_size, model=run.model, vocab_size=VOCAB_SIZE, deepspeed=settings
    )
    initialize_process_groups(launch, layout, seed=run.seed)
    try:
        dtype = getattr(torch, TORCH_DTYPES[settings.precision])
        model = build_local_model(run.model, layout, vocab_size=VOCAB_SIZE, seed=run.seed, dtype=dtype)
        engine = build_engine(model, deepspeed_file=settings, optimizer=OPTIMIZER, training=TRAINING)
        yield model, engine, Stepper(model, engine, layout, device())
    finally:
        parallel_state.destroy_model_parallel()
