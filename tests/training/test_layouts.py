"""Same computation, same loss: every layout against one process, from the same weights on the same global batches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pause_megatron.config.parallel import ParallelConfig
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, Run, largest_differences, train

TOLERANCE = 1e-5
"""Largest loss difference accepted over 20 steps; about 2e-7 is found."""

TP2 = ParallelConfig(tensor_model_parallel_size=2)
TP2_SP = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
PP2_VP2 = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
TP2_PP2_SP = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2, sequence_parallel=True)
DP = ParallelConfig()
TIED = replace(GPT2, untie_embeddings_and_output_weights=False)


@pytest.fixture(scope="module")
def alone() -> dict[str, list[tuple[float, float]]]:
    """The trusted runs: one process."""
    models = {"gpt2": GPT2, "gpt2 tied": TIED, "llama": LLAMA}
    return {name: run_distributed(train, 1, Run(model=model))[0] for name, model in models.items()}


@pytest.mark.parametrize(
    ("name", "world_size", "run"),
    [
        ("gpt2", 2, Run(parallel=TP2)),
        ("gpt2", 2, Run(parallel=PP2)),
        ("gpt2", 2, Run(parallel=DP)),
        ("gpt2", 2, Run(parallel=TP2_SP)),
        ("gpt2", 2, Run(parallel=PP2_VP2)),
        ("gpt2", 2, Run(parallel=DP, zero_stage=2)),
        ("gpt2", 2, Run(parallel=DP, zero_stage=3)),
        ("gpt2", 4, Run(parallel=TP2_PP2_SP)),
        ("gpt2 tied", 2, Run(model=TIED, parallel=PP2)),
        ("llama", 4, Run(model=LLAMA, parallel=TP2_PP2_SP)),
    ],
    ids=lambda value: str(value) if not isinstance(value, Run) else "",
)
def test_layout_gives_the_losses_and_gradient_norms_of_one_process(
    alone: dict[str, list[tuple[float, float]]], name: str, world_size: int, run: Run
) -> None:
    for found in run_distributed(train, world_size, run):
        loss_difference, norm_difference = largest_differences(alone[name], found)
        assert loss_difference <= TOLERANCE
        assert norm_difference <= TOLERANCE


def test_a_different_start_is_told_apart(alone: dict[str, list[tuple[float, float]]]) -> None:
    found = run_distributed(train, 1, Run(seed=8))[0]
    assert largest_differences(alone["gpt2"], found)[0] > 100 * TOLERANCE
