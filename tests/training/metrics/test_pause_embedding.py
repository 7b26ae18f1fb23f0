"""Metrics of the pause embedding equal those of plain PyTorch on one rank, under every layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch
from megatron.core import parallel_state

from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.conversion.one_layer import ONE_PROCESS
from pause_megatron.data.batches import Batch
from pause_megatron.engine.build import build_engine
from pause_megatron.engine.parameter_groups import parameter_groups
from pause_megatron.model.gpt import LocalModel, build_local_model
from pause_megatron.model.parameters import WORD_EMBEDDINGS
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.metrics.pause_embedding import PauseEmbedding
from pause_megatron.training.schedule import learning_rate
from pause_megatron.training.step import Stepper
from tests.distributed import run_distributed
from tests.training.runs import GPT2, OPTIMIZER, PAUSE_ID, STEPS, TRAINING, VOCAB_SIZE, Run, batch_of, random_batch

ROWS = (PAUSE_ID, 85, 200)
"""Rows that are watched as if they were that of <pause>: the first of two tensor-parallel processes holds two of them,
the second one; and of three processes under ZeRO-3 the first two hold pieces of row 85."""
BATCHES = 3
LOGGED = (0, BATCHES - 1)
SAMPLES = 6
"""Sequences of a batch: as many on each of one, two or three processes."""
TIED = replace(GPT2, untie_embeddings_and_output_weights=False)
TP2_SP = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
PP2_VP2 = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)

Figures = list[dict[str, float]]
"""Of each of :data:`ROWS`."""


def batch(step: int) -> Batch:
    """This process's part of a batch of :data:`SAMPLES` sequences, one a microbatch."""
    tokens, _ = random_batch(step)
    return batch_of(tokens[:SAMPLES], micro_batch_size=1)


def watched(runs: Sequence[Run]) -> list[list[Figures]]:
    """For each of ``runs``, one after the other in the same processes, the figures after the :data:`LOGGED` steps."""
    try:
        found = []
        for run in runs:
            found.append(_watched(run))
            parallel_state.destroy_model_parallel()
        return found
    finally:
        destroy_process_groups()


def _watched(run: Run) -> list[Figures]:
    launch, settings = detect_launch(), run.deepspeed_file
    layout = resolve_layout(
        run.parallel, world_size=launch.world_size, model=run.model, vocab_size=VOCAB_SIZE, deepspeed=settings
    )
    initialize_process_groups(launch, layout, seed=run.seed)
    dtype = getattr(torch, TORCH_DTYPES[settings.precision])
    model = build_local_model(run.model, layout, vocab_size=VOCAB_SIZE, seed=run.seed, dtype=dtype)
    engine = build_engine(model, deepspeed_file=settings, optimizer=OPTIMIZER, training=TRAINING)
    rows = [PauseEmbedding(model, engine, pause_id=row, vocab_size=VOCAB_SIZE) for row in ROWS]
    stepper = Stepper(model, engine, layout, device())
    found = []
    for step in range(BATCHES):
        stepper.accumulate(batch(step))
        update = stepper.update(learning_rate(step, STEPS, OPTIMIZER))
        for row in rows:
            row.end_step(update)
        if step in LOGGED:
            found.append([asdict(row.measure()) for row in rows])
    engine.updater.wait()
    return found


def by_hand(config: ModelConfig) -> list[Figures]:
    """The same figures by plain PyTorch on one rank: no schedule, no DeepSpeed, no hooks."""
    initialize_process_groups(detect_launch({}), ONE_PROCESS, seed=Run.seed)
    try:
        model = build_local_model(config, ONE_PROCESS, vocab_size=VOCAB_SIZE, seed=Run.seed)
        weights = {item.name: item.parameter for item in model.parameters}
        embeddings = weights[WORD_EMBEDDINGS]
        optimizer = torch.optim.AdamW(
            parameter_groups(model.parameters, OPTIMIZER.weight_decay),
            betas=(OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2),
            eps=OPTIMIZER.adam_eps,
        )
        initial = previous = embeddings.detach().double()
        found = []
        for step in range(BATCHES):
            optimizer.zero_grad()
            mean_loss(model, batch(step)).backward()
            norm = torch.nn.utils.clip_grad_norm_(weights.values(), OPTIMIZER.clip_grad)
            clipped = min(1.0, OPTIMIZER.clip_grad / float(norm))
            gradient = embeddings.grad.double() / clipped
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, STEPS, OPTIMIZER)
            optimizer.step()
            now = embeddings.detach().double()
            if step in LOGGED:
                found.append([expected(row, now, initial, previous, gradient, float(norm)) for row in ROWS])
                previous = now
        return found
    finally:
        destroy_process_groups()


def mean_loss(model: LocalModel, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over all real targets."""
    losses = [model.chunks[0](each.tokens, each.position_ids, None, labels=each.labels) for each in batch]
    return (torch.stack(losses) * batch.is_target).sum() / batch.is_target.sum()


def expected(
    row: int, now: torch.Tensor, initial: torch.Tensor, previous: torch.Tensor, gradient: torch.Tensor, norm: float
) -> dict[str, float]:
    """The figures of ``row`` from complete embedding matrices, fp64."""
    first, last = initial[row], now[row]
    return {
        "norm": float(last.square().sum().sqrt()),
        "norm_of_all_rows": float(now[:VOCAB_SIZE].square().sum(1).mean().sqrt()),
        "movement": float((last - first).square().sum().sqrt()),
        "movement_since_last": float((last - previous[row]).square().sum().sqrt()),
        "cosine_with_initial": float(last @ first / first.square().sum().sqrt() / last.square().sum().sqrt()),
        "gradient_share": float(gradient[row].square().sum() / norm**2),
    }


@pytest.fixture(scope="module")
def hand() -> dict[ModelConfig, list[Figures]]:
    """The trusted figures."""
    return {config: run_distributed(by_hand, 1, config)[0] for config in (GPT2, TIED)}


@pytest.mark.parametrize(
    ("world_size", "runs"),
    [
        (1, [Run(), Run(model=TIED)]),
        (2, [Run(parallel=TP2_SP), Run(parallel=PP2_VP2), Run(model=TIED, parallel=PP2)]),
        (2, [Run(zero_stage=0), Run(zero_stage=2)]),
        (3, [Run(zero_stage=3)]),
    ],
    ids=["one process", "model-parallel", "data-parallel", "ZeRO-3"],
)
def test_figures_are_those_computed_by_hand(
    hand: dict[ModelConfig, list[Figures]], world_size: int, runs: list[Run]
) -> None:
    for process in run_distributed(watched, world_size, runs):
        for run, figures in zip(runs, process, strict=True):
            for found, trusted in zip(figures, hand[run.model], strict=True):
                for index, row in enumerate(ROWS):
                    assert found[index] == pytest.approx(trusted[index], rel=1e-5), (str(run), row)


def test_gradient_share_of_fp16_is_freed_of_the_loss_scale(hand: dict[ModelConfig, list[Figures]]) -> None:
    [figures] = run_distributed(watched, 1, [Run(deepspeed={"fp16": {"enabled": True, "initial_scale_power": 8}})])[0]
    for found, trusted in zip(figures, hand[GPT2], strict=True):
        assert found[0]["gradient_share"] == pytest.approx(trusted[0]["gradient_share"], rel=0.02)
