"""Updates of ZeRO-0 and ZeRO-1, also offloaded: reduced, clipped and applied as by PyTorch on one rank."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.engine import Engine
from pause_megatron.engine.build import build_engine
from pause_megatron.engine.flat_updater import FlatUpdater
from pause_megatron.engine.parameter_groups import parameter_groups
from pause_megatron.model.gpt import LocalModel, build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from tests.distributed import run_distributed
from tests.training.runs import GPT2, OPTIMIZER, TRAINING, VOCAB_SIZE, Run, own_batch

CLIPPING = replace(OPTIMIZER, clip_grad=0.1)
"""At most a tenth of the norm, so that clipping has an effect."""
OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}


@contextmanager
def built(run: Run, optimizer: Any = CLIPPING) -> Iterator[tuple[LocalModel, LocalModel, Engine]]:
    """A model with its engine, and the same model without."""
    launch, settings = detect_launch(), run.deepspeed_file
    layout = resolve_layout(
        run.parallel, world_size=launch.world_size, model=GPT2, vocab_size=VOCAB_SIZE, deepspeed=settings
    )
    initialize_process_groups(launch, layout, seed=0)
    try:
        plain, model = (build_local_model(GPT2, layout, vocab_size=VOCAB_SIZE, seed=7) for _ in range(2))
        engine = build_engine(model, deepspeed_file=settings, optimizer=optimizer, training=TRAINING)
        assert isinstance(engine.updater, FlatUpdater)
        yield plain, model, engine
    finally:
        destroy_process_groups()


def backward(model: LocalModel, microbatch: Any) -> None:
    losses = model.chunks[0](microbatch.tokens, microbatch.position_ids, None, labels=microbatch.labels)
    losses.mean().backward()


def norm_of(updater: FlatUpdater) -> float:
    """Complete the gradients, and return the norm of their average over the ranks."""
    squares = updater.complete()
    dist.all_reduce(squares)
    return math.sqrt(squares) / updater.multiple


def reduce_and_step(run: Run) -> dict[str, Any]:
    """Run one step of two microbatches, and compare gradients and weights with the same step by PyTorch."""
    with built(run) as (plain, model, engine):
        updater: Any = engine.updater
        first, second = list(own_batch(0))[:2] if dist.get_world_size() < 3 else [next(iter(own_batch(0)))] * 2
        for microbatch in (first, second):
            backward(plain, microbatch)
        with updater.accumulating():
            backward(model, first)
        backward(model, second)
        norm = norm_of(updater)
        update = updater.update(CLIPPING.learning_rate, grad_norm=norm, targets_per_token=1.0)
        expected_norm = apply_by_hand(plain)
        model.chunks[0](first.tokens, first.position_ids, None, labels=first.labels)  # waits for the weights
        buffers = updater._gradients.buffers
        return {
            "applied": update.applied,
            "relative error of the norm": abs(update.grad_norm / expected_norm - 1),
            "largest error of a weight": max(
                float((one.parameter - other.parameter).abs().max())
                for one, other in zip(model.parameters, plain.parameters, strict=True)
            ),
            "buckets": len(buffers),
            "left in the buffers": sum(float(buffer.abs().sum()) for buffer in buffers),
            "gradients are views": all(
                shares_memory(item.parameter.grad, item.parameter.main_grad) for item in model.parameters
            ),
            "weights are shared": all(
                shares_memory(master, item.parameter) and shares_memory(master, item.parameter._hp_mapping.hp_fragment)
                for master, item in masters(engine, model)
            ),
        }


def apply_by_hand(model: LocalModel) -> float:
    """Average the gradients of ``model``, update it with plain PyTorch, and return the norm of the gradients."""
    weights = [item.parameter for item in model.parameters]
    for each in weights:
        assert each.grad is not None
        dist.all_reduce(each.grad)
        each.grad /= dist.get_world_size()
    norm = torch.cat([each.grad.flatten() for each in weights if each.grad is not None]).double().norm()
    torch.nn.utils.clip_grad_norm_(weights, CLIPPING.clip_grad)
    torch.optim.AdamW(
        parameter_groups(model.parameters, CLIPPING.weight_decay),
        lr=CLIPPING.learning_rate,
        betas=(CLIPPING.adam_beta1, CLIPPING.adam_beta2),
        eps=CLIPPING.adam_eps,
    ).step()
    return norm.item()


def shares_memory(part: torch.Tensor, whole: torch.Tensor) -> bool:
    return part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def masters(engine: Engine, model: LocalModel) -> Iterator[tuple[torch.Tensor, Any]]:
    """Yield the master weights of its bucket, and each parameter of which this rank updates a part."""
    for item in model.parameters:
        if mapping := item.parameter._hp_mapping:
            yield engine.deepspeed.optimizer.single_partition_of_fp32_groups[mapping.param_group_index], item


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_step_applies_the_average_of_all_processes_and_leaves_zeroed_views(world_size: int, zero_stage: int) -> None:
    for found in run_distributed(reduce_and_step, world_size, Run(zero_stage=zero_stage)):
        assert found["applied"]
        assert found["buckets"] > 5
        assert found["relative error of the norm"] < 1e-6
        assert found["largest error of a weight"] < 1e-6
        assert found["left in the buffers"] == 0
        assert found["gradients are views"]
        assert found["weights are shared"]


def test_offloaded_step_applies_the_same_and_keeps_its_own_master_weights() -> None:
    for found in run_distributed(reduce_and_step, 2, Run(deepspeed=OFFLOAD)):
        assert found["relative error of the norm"] < 1e-6
        assert found["largest error of a weight"] < 1e-6
        assert found["left in the buffers"] == 0
        assert not found["weights are shared"]


def step_with_a_gradient_that_is_not_finite(precision: str) -> tuple[bool, bool, float]:
    """Return whether the step was applied, whether a weight moved, and the sum left in the buffers."""
    with built(Run(deepspeed={precision: {"enabled": True}} if precision != "fp32" else {})) as (_, model, engine):
        updater: Any = engine.updater
        before = [item.parameter.detach().clone() for item in model.parameters]
        model.parameters[-1].parameter.main_grad.view(-1)[0] = math.inf
        update = updater.update(1e-3, grad_norm=norm_of(updater), targets_per_token=1.0)
        return (
            update.applied,
            any(bool((old != new.parameter).any()) for old, new in zip(before, model.parameters, strict=True)),
            sum(float(buffer.abs().sum()) for buffer in updater._gradients.buffers),
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_that_are_not_finite_are_dropped(precision: str) -> None:
    assert run_distributed(step_with_a_gradient_that_is_not_finite, 1, precision) == [(False, False, 0.0)]


def collectives_of_a_step(run: Run) -> dict[str, list[str]]:
    """The collectives that start in each part of a step, in order; those of the model are left out."""
    started: list[str] = []
    with built(run) as (_, model, engine):
        for name in ("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor"):
            setattr(dist, name, recorded(getattr(dist, name), started))
        microbatch = next(iter(own_batch(0)))
        found = {}

        def part(name: str) -> None:
            found[name] = list(started)
            started.clear()

        with engine.updater.accumulating():
            backward(model, microbatch)
        part("first backward pass")
        backward(model, microbatch)
        part("last backward pass")
        engine.updater.complete()
        part("completion")
        engine.updater.update(1e-3, grad_norm=1.0, targets_per_token=1.0)
        part("update")
        engine.updater.wait()
        return found


def recorded(collective: Any, started: list[str]) -> Any:
    def call(*tensors: torch.Tensor, **given: Any) -> Any:
        if "pause_megatron/engine" in sys._getframe(1).f_code.co_filename:
            started.append(f"{collective.__name__} {'async' if given.get('async_op') else 'waits'}")
        return collective(*tensors, **given)

    return call


def test_every_bucket_is_reduced_in_the_last_backward_pass_and_gathered_after_the_update() -> None:
    [one, other] = run_distributed(collectives_of_a_step, 2, Run())
    assert one == other
    assert one["first backward pass"] == one["completion"] == []
    assert len(one["last backward pass"]) == len(one["update"]) > 5
    assert set(one["last backward pass"]) == {"reduce_scatter_tensor async"}
    assert set(one["update"]) == {"all_gather_into_tensor async"}


def test_zero_0_reduces_all_of_a_bucket_and_gathers_nothing() -> None:
    [found, _] = run_distributed(collectives_of_a_step, 2, Run(zero_stage=0))
    assert set(found["last backward pass"]) == {"all_reduce async"}
    assert found["update"] == []


def test_one_call_sums_all_norm_gradients_of_the_tensor_parallel_ranks() -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
    for found in run_distributed(collectives_of_a_step, 2, Run(parallel=parallel)):
        assert found == {
            "first backward pass": [],
            "last backward pass": [],
            "completion": ["all_reduce waits"],
            "update": [],
        }
