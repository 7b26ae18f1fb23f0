"""Same computation, same loss: layouts against one process, from the same weights on the same global batches.

A few that contain every way to divide a model; ``make layouts`` runs all there are (docs/layouts.md).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pause_megatron.config.parallel import ParallelConfig
from tests.distributed import run_distributed
from tests.training.layout_table import MODELS, TOLERANCE, WORLD_SIZES, Curve, candidates, reference_curve
from tests.training.runs import FEW_STEPS, Run, largest_differences, train_all

TP2 = ParallelConfig(tensor_model_parallel_size=2)
TP2_SP = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
PP2_VP2 = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
PP4 = ParallelConfig(pipeline_model_parallel_size=4)
TP2_PP2_SP = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2, sequence_parallel=True)
DP = ParallelConfig()


SHARED = {f"{name} shared": replace(MODELS[name], pause_positions="shared") for name in ("gpt2", "llama")}
"""Models whose pauses have the position index of the real token before them."""


@pytest.fixture(scope="module")
def reference() -> dict[str, Curve]:
    """The trusted runs: one process."""
    return {name: reference_curve(model, FEW_STEPS) for name, model in (MODELS | SHARED).items()}


@pytest.mark.parametrize(
    ("name", "world_size", "layouts"),
    [
        ("gpt2", 2, [(DP, 0), (DP, 1), (DP, 2), (DP, 3), (PP2, 1), (PP2_VP2, 1)]),
        pytest.param("gpt2", 2, [(TP2, 1), (TP2_SP, 1), (TP2_SP, 2), (TP2_SP, 3)], marks=pytest.mark.slow),
        ("gpt2", 4, [(TP2_PP2_SP, 1), (PP2_VP2, 1), (PP2, 0), (TP2, 3), (PP4, 1)]),
        ("gpt2 tied", 2, [(PP2, 1), (PP2_VP2, 0), (TP2, 3)]),
        ("llama", 4, [(TP2_PP2_SP, 1), (TP2_SP, 2), (DP, 3)]),
        ("gpt2 shared", 2, [(PP2_VP2, 1), (TP2_SP, 2)]),
        ("llama shared", 4, [(TP2_PP2_SP, 1), (PP2_VP2, 1), (TP2_SP, 2), (DP, 3)]),
    ],
    ids=["gpt2 DP, PP", "gpt2 TP", "gpt2 on four", "gpt2 tied", "llama on four", "gpt2 shared", "llama shared on four"],
)
def test_layouts_give_the_losses_and_gradient_norms_of_one_process(
    reference: dict[str, Curve], name: str, world_size: int, layouts: list[tuple[ParallelConfig, int]]
) -> None:
    runs = [Run(model=(MODELS | SHARED)[name], parallel=parallel, zero_stage=stage) for parallel, stage in layouts]
    for of_process in run_distributed(train_all, world_size, runs):
        for run, curve in zip(runs, of_process, strict=True):
            assert max(largest_differences(reference[name], curve)) <= TOLERANCE, run


def test_shared_positions_exceed_the_tolerance(reference: dict[str, Curve]) -> None:
    for name in ("gpt2", "llama"):
        losses, _ = largest_differences(reference[name], reference[f"{name} shared"])
        assert losses > 5 * TOLERANCE, name


def test_a_different_seed_exceeds_the_tolerance(reference: dict[str, Curve]) -> None:
    (found,) = run_distributed(train_all, 1, [Run(seed=8)])[0]
    assert largest_differences(reference["gpt2"], found)[0] > 100 * TOLERANCE


def test_the_table_has_every_way_to_divide_a_model() -> None:
    assert [len(list(candidates(world_size))) for world_size in WORLD_SIZES] == [1, 5, 13]
    divided = [parallel for world_size in WORLD_SIZES for parallel in candidates(world_size)]
    for parallel in (DP, TP2, TP2_SP, PP2, PP2_VP2, PP4, TP2_PP2_SP):
        assert parallel in divided
