"""fp16 and bf16 train, the optimizer may live in CPU memory, and recomputation changes memory but not the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from tests.distributed import run_distributed
from tests.training.layout_table import TOLERANCE
from tests.training.runs import GPT2, LLAMA, VOCAB_SIZE, Run, largest_differences, own_batch, train_all

PP2 = ParallelConfig(pipeline_model_parallel_size=2)
TP2_SP = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
BF16: dict[str, Any] = {"bf16": {"enabled": True}}
FP32_SUMS = {**BF16, "data_types": {"grad_accum_dtype": "fp32"}}
FP16: dict[str, Any] = {"fp16": {"enabled": True, "initial_scale_power": 12}}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
OFFLOAD_ALL = {**OFFLOAD, "offload_param": {"device": "cpu"}}
HALF_NOISE = 0.02
"""Largest difference a loss may have from fp32's in half precision; losses are about 5.5."""
RECOMPUTATIONS = [
    ParallelConfig(),
    ParallelConfig(recompute_granularity="selective"),
    ParallelConfig(recompute_granularity="full"),
    ParallelConfig(recompute_granularity="full", recompute_num_layers=2),
]

Curve = list[tuple[float, float]]


@pytest.fixture(scope="module")
def single() -> Curve:
    curve: Curve = run_distributed(train_all, 1, [Run()])[0][0]
    return curve


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(
            [Run(deepspeed=FP16, zero_stage=stage) for stage in range(4)] + [Run(deepspeed=FP16, parallel=PP2)],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [Run(deepspeed=BF16, zero_stage=stage) for stage in range(4)] + [Run(deepspeed=BF16, parallel=TP2_SP)],
            marks=pytest.mark.slow,
        ),
        [Run(deepspeed=FP32_SUMS, zero_stage=stage) for stage in range(4)]
        + [Run(deepspeed=FP32_SUMS, parallel=PP2), Run(deepspeed=FP32_SUMS, parallel=TP2_SP)],
    ],
    ids=["fp16", "bf16", "bf16, gradients in fp32"],
)
def test_half_precision_follows_single_precision(single: Curve, runs: list[Run]) -> None:
    for of_process in run_distributed(train_all, 2, runs):
        for run, curve in zip(runs, of_process, strict=True):
            losses, _ = zip(*single, strict=True)
            found, norms = zip(*curve, strict=True)
            assert max(abs(a - b) for a, b in zip(losses, found, strict=True)) < HALF_NOISE, run
            assert all(0 < norm < 10 for norm in norms), run
            assert curve != single, run


@pytest.mark.slow
def test_offloaded_optimizer_computes_the_same(single: Curve) -> None:
    runs = [Run(zero_stage=stage, deepspeed={"zero_optimization": OFFLOAD}) for stage in (1, 2, 3)]
    runs += [Run(zero_stage=3, deepspeed={"zero_optimization": OFFLOAD_ALL})]
    runs += [Run(parallel=parallel, deepspeed={"zero_optimization": OFFLOAD}) for parallel in (PP2, TP2_SP)]
    for of_process in run_distributed(train_all, 2, runs):
        for run, curve in zip(runs, of_process, strict=True):
            assert max(largest_differences(single, curve)) <= TOLERANCE, run


def test_recomputation_does_not_change_the_loss(single: Curve) -> None:
    runs = [Run(parallel=parallel) for parallel in RECOMPUTATIONS[1:]]
    runs += [Run(parallel=RECOMPUTATIONS[2], zero_stage=stage) for stage in (2, 3)]
    for run, curve in zip(runs, run_distributed(train_all, 1, runs)[0], strict=True):
        assert max(largest_differences(single, curve)) <= TOLERANCE, run


@pytest.mark.slow
def test_recomputation_in_parts_of_a_model_does_not_change_the_loss(single: Curve) -> None:
    runs = [Run(parallel=replace(base, recompute_granularity="full")) for base in (PP2, TP2_SP)]
    for of_process in run_distributed(train_all, 2, runs):
        for run, curve in zip(runs, of_process, strict=True):
            assert max(largest_differences(single, curve)) <= TOLERANCE, run


def kept_bytes(parallel: ParallelConfig, model: Any) -> int:
    """Bytes of activations that the forward pass of one microbatch leaves for the backward pass."""
    launch = detect_launch()
    file = Run().deepspeed_file
    layout = resolve_layout(parallel, world_size=1, model=model, vocab_size=VOCAB_SIZE, deepspeed=file)
    initialize_process_groups(launch, layout, seed=0)
    try:
        chunk: Any = build_local_model(model, layout, vocab_size=VOCAB_SIZE, seed=0).chunks[0]
        weights = {parameter.untyped_storage().data_ptr() for parameter in chunk.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = next(iter(own_batch(0)))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            chunk(batch.tokens, batch.position_ids, None, labels=batch.labels)
        return sum(kept.values())
    finally:
        destroy_process_groups()


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_recomputation_keeps_less(model: Any) -> None:
    nothing, mlps, layers, pairs = (run_distributed(kept_bytes, 1, parallel, model)[0] for parallel in RECOMPUTATIONS)
    assert nothing > 1.2 * mlps
    assert mlps > 1.5 * layers
    assert layers > pairs
