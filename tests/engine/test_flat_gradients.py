"""In-place gradients and weights of ZeRO-0 and ZeRO-1: reduced, clipped and applied as by PyTorch on one rank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.engine.build import build_engine, parameter_groups
from pause_megatron.engine.flat_gradients import FlatGradients, sum_of_squares
from pause_megatron.model.gpt import LocalModel, build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from tests.distributed import run_distributed
from tests.training.runs import GPT2, OPTIMIZER, TRAINING, VOCAB_SIZE, Run, own_microbatches

CLIPPING = replace(OPTIMIZER, clip_grad=0.1)
"""At most a tenth of the norm, so that clipping has an effect."""


def reduce_and_step(zero_stage: int) -> dict[str, Any]:
    """Run one step, and compare gradients and weights with the same step by PyTorch."""
    launch = detect_launch()
    settings = Run(zero_stage=zero_stage).deepspeed_file
    layout = resolve_layout(
        ParallelConfig(), world_size=launch.world_size, model=GPT2, vocab_size=VOCAB_SIZE, deepspeed=settings
    )
    initialize_process_groups(launch, layout, seed=0)
    try:
        model = build_local_model(GPT2, layout, vocab_size=VOCAB_SIZE, seed=7)
        expected = [torch.nn.Parameter(item.parameter.detach().clone()) for item in model.parameters]
        engine = build_engine(model, deepspeed_file=settings, optimizer=CLIPPING, training=TRAINING)
        flat = engine.optimizer.reduce_gradients.__self__
        assert isinstance(flat, FlatGradients)
        batch = own_microbatches(0)[0]
        model.chunks[0](batch.tokens, batch.position_ids, None, labels=batch.labels).mean().backward()
        for weights, item in zip(expected, model.parameters, strict=True):
            weights.grad = item.parameter.grad.clone()
            dist.all_reduce(weights.grad)
            weights.grad /= launch.world_size
        engine.step()
        norm = apply_by_hand(model, expected)
        return {
            "relative error of the norm": abs(float(engine.get_global_grad_norm()) / norm - 1),
            "largest error of a weight": max(
                float((item.parameter - weights).abs().max())
                for weights, item in zip(expected, model.parameters, strict=True)
            ),
            "left in the buffers": sum(float(buffer.abs().sum()) for buffer in flat._buffers),
            "gradients are views": all(
                shares_memory(parameter.grad, buffer)
                for buffer, parameters in zip(flat._buffers, engine.optimizer.bit16_groups, strict=True)
                for parameter in parameters
            ),
            "weights are shared": all(
                shares_memory(master, weights) and shares_memory(master, item.parameter._hp_mapping.hp_fragment)
                for master, weights, item in masters(engine, model)
            ),
        }
    finally:
        destroy_process_groups()


def apply_by_hand(model: LocalModel, weights: list[torch.nn.Parameter]) -> float:
    """Run the same step with plain PyTorch on ``weights``, and return the norm of their gradients."""
    norm = torch.cat([each.grad.flatten() for each in weights]).double().norm()
    torch.nn.utils.clip_grad_norm_(weights, CLIPPING.clip_grad)
    copies = [replace(item, parameter=copy) for item, copy in zip(model.parameters, weights, strict=True)]
    torch.optim.AdamW(
        parameter_groups(copies, CLIPPING.weight_decay),
        lr=CLIPPING.learning_rate,
        betas=(CLIPPING.adam_beta1, CLIPPING.adam_beta2),
        eps=CLIPPING.adam_eps,
    ).step()
    return norm.item()


def shares_memory(part: torch.Tensor, buffer: torch.Tensor) -> bool:
    return part.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


def masters(engine: Any, model: LocalModel) -> Iterator[tuple[torch.Tensor, torch.Tensor, Any]]:
    """Yield master weights, flat model weights and each parameter that this rank updates, by group."""
    zero = engine.optimizer
    for group, (master, weights) in enumerate(
        zip(zero.single_partition_of_fp32_groups, zero.bit16_groups_flat, strict=True)
    ):
        found = [
            item for item in model.parameters if (own := item.parameter._hp_mapping) and own.param_group_index == group
        ]
        yield from ((master, weights, item) for item in found)


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_step_applies_the_average_of_all_processes_and_leaves_zeroed_views(world_size: int, zero_stage: int) -> None:
    for found in run_distributed(reduce_and_step, world_size, zero_stage):
        assert found["relative error of the norm"] < 1e-6
        assert found["largest error of a weight"] < 1e-6
        assert found["left in the buffers"] == 0
        assert found["gradients are views"]
        assert found["weights are shared"]


def step_with_a_gradient_that_is_not_finite(precision: str) -> tuple[bool, bool, float]:
    """Return whether the step was applied, whether a weight moved, and the sum left in the buffers."""
    run = Run(deepspeed={precision: {"enabled": True}} if precision != "fp32" else {})
    layout = resolve_layout(
        ParallelConfig(), world_size=1, model=GPT2, vocab_size=VOCAB_SIZE, deepspeed=run.deepspeed_file
    )
    initialize_process_groups(detect_launch(), layout, seed=0)
    try:
        model = build_local_model(GPT2, layout, vocab_size=VOCAB_SIZE, seed=7)
        engine = build_engine(model, deepspeed_file=run.deepspeed_file, optimizer=OPTIMIZER, training=TRAINING)
        before = [item.parameter.detach().clone() for item in model.parameters]
        model.parameters[-1].parameter.main_grad.view(-1)[0] = math.inf
        engine.step()
        buffers = engine.optimizer.reduce_gradients.__self__._buffers
        return (
            engine.was_step_applied(),
            any(bool((old != new.parameter).any()) for old, new in zip(before, model.parameters, strict=True)),
            sum(float(buffer.abs().sum()) for buffer in buffers),
        )
    finally:
        destroy_process_groups()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_that_are_not_finite_are_dropped(precision: str) -> None:
    assert run_distributed(step_with_a_gradient_that_is_not_finite, 1, precision) == [(False, False, 0.0)]


def test_norm_of_many_values_is_exact_to_single_precision() -> None:
    values = torch.rand(5_000_001, generator=torch.Generator().manual_seed(0)) ** 4
    exact = values.double().square().sum()
    assert abs(sum_of_squares(values) / exact - 1) < 1e-6
    assert abs(values.norm().double().square() / exact - 1) > 1e-6  # an fp32 sum over all elements is less exact


@pytest.mark.parametrize("size", [0, 1, 4096, 4097])
def test_norm_takes_any_number_of_values(size: int) -> None:
    values = torch.arange(size, dtype=torch.float32)
    assert sum_of_squares(values).item() == pytest.approx(values.double().square().sum().item())


def test_values_that_are_not_finite_show_in_the_norm() -> None:
    for value in (float("nan"), float("inf")):
        assert not sum_of_squares(torch.tensor([1.0, value])).isfinite()
