"""Gradients of ZeRO-1 accumulate in place, are averaged and partitioned once, and have an exact norm."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.engine import build_engine
from pause_megatron.training.flat_gradients import FlatGradients, _sum_of_squares
from tests.distributed import run_distributed
from tests.training.runs import GPT2, OPTIMIZER, TRAINING, VOCAB_SIZE, Run, own_microbatches


def reduce_and_step(zero_stage: int) -> dict[str, float]:
    """What becomes of one microbatch's gradients, and what is there after the step."""
    launch = detect_launch()
    settings = Run(zero_stage=zero_stage).deepspeed_file
    layout = resolve_layout(
        ParallelConfig(), world_size=launch.world_size, model=GPT2, vocab_size=VOCAB_SIZE, deepspeed=settings
    )
    initialize_process_groups(launch, layout, seed=0)
    try:
        model = build_local_model(GPT2, layout, vocab_size=VOCAB_SIZE, seed=7)
        engine = build_engine(model, deepspeed_file=settings, optimizer=OPTIMIZER, training=TRAINING)
        zero = engine.optimizer
        flat = zero.reduce_gradients.__self__
        assert isinstance(flat, FlatGradients)
        batch = own_microbatches(0)[0]
        model.chunks[0](batch.tokens, batch.position_ids, None, labels=batch.labels).mean().backward()

        averages = [parameter.grad.clone() for group in zero.bit16_groups for parameter in group]
        for average in averages:
            dist.all_reduce(average)
            average /= launch.world_size
        engine.step()
        offered = sum(float(buffer.abs().sum()) for buffer in flat._buffers)
        norm = torch.cat([average.flatten() for average in averages]).double().norm()
        within = all(
            parameter.grad.untyped_storage().data_ptr() == flat._buffers[group].untyped_storage().data_ptr()
            for group, parameters in enumerate(zero.bit16_groups)
            for parameter in parameters
        )
        return {
            "relative error of the norm": abs(float(engine.get_global_grad_norm()) / norm.item() - 1),
            "left in the buffers": offered,
            "views": within,
        }
    finally:
        destroy_process_groups()


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_step_takes_the_average_of_all_processes_and_leaves_zeroed_views(world_size: int, zero_stage: int) -> None:
    for found in run_distributed(reduce_and_step, world_size, zero_stage):
        assert found["relative error of the norm"] < 1e-6
        assert found["left in the buffers"] == 0
        assert found["views"]


def test_norm_of_many_values_is_exact_to_single_precision() -> None:
    values = torch.rand(5_000_001, generator=torch.Generator().manual_seed(0)) ** 4
    exact = values.double().square().sum()
    assert abs(_sum_of_squares(values) / exact - 1) < 1e-6
    assert abs(values.norm().double().square() / exact - 1) > 1e-6  # what is avoided


@pytest.mark.parametrize("size", [0, 1, 4096, 4097])
def test_norm_takes_any_number_of_values(size: int) -> None:
    values = torch.arange(size, dtype=torch.float32)
    assert _sum_of_squares(values).item() == pytest.approx(values.double().square().sum().item())


def test_values_that_are_not_finite_show_in_the_norm() -> None:
    for value in (float("nan"), float("inf")):
        assert not _sum_of_squares(torch.tensor([1.0, value])).isfinite()
