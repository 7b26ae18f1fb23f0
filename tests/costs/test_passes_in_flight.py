"""The formula for microbatches in flight matches Megatron-core's schedules."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel import get_forward_backward_func

from pause_megatron.config.parallel import Layout
from pause_megatron.costs.memory_plan import passes_in_flight
from tests.costs.local_models import GPT2, layout, local_model, of_layouts, random_tokens
from tests.distributed import run_distributed

SEQ_LENGTH = 16
CASES = {
    1: [(layout(), 3)],
    2: [(layout(pp=2), 1), (layout(pp=2), 4), (layout(pp=2, vp=2), 2), (layout(pp=2, vp=2), 4)],
    4: [(layout(pp=4), 2), (layout(pp=4), 8), (layout(tp=2, pp=2, vp=2), 4)],
}
BACKWARD = -1


def passes_made(cases: list[tuple[Layout, int]]) -> list[tuple[int, list[int]]]:
    """This rank's stage and its passes in order: the chunk of each forward pass, -1 for a backward pass."""
    layouts = of_layouts(each for each, _ in cases)
    return [_passes_made(each, num_microbatches) for each, (_, num_microbatches) in zip(layouts, cases, strict=True)]


def _passes_made(each: Layout, num_microbatches: int) -> tuple[int, list[int]]:
    made: list[int] = []
    tokens, positions, labels = random_tokens(1, SEQ_LENGTH)
    chunks = local_model(GPT2, each).chunks

    def forward_step(_: Any, chunk: GPTModel) -> tuple[torch.Tensor, Any]:
        made.append(chunks.index(chunk))
        output = chunk(tokens, positions, None, labels=labels)
        output.register_hook(lambda gradient: made.append(BACKWARD))
        return output, lambda losses: (losses.mean(), {})

    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(())] * each.vp if each.vp > 1 else iter(()),
        model=chunks,
        num_microbatches=num_microbatches,
        seq_length=SEQ_LENGTH,
        micro_batch_size=1,
        forward_only=False,
    )
    return parallel_state.get_pipeline_model_parallel_rank(), made


@pytest.mark.parametrize("world_size", CASES)
def test_passes_before_the_first_backward_are_the_maximum_in_flight(world_size: int) -> None:
    cases = CASES[world_size]
    for of_process in run_distributed(passes_made, world_size, cases):
        for (each, num_microbatches), (stage, made) in zip(cases, of_process, strict=True):
            expected = passes_in_flight(each, stage=stage, num_microbatches=num_microbatches)
            assert made[: made.index(BACKWARD)] == expected, (each, num_microbatches, stage)
            in_flight = accumulate(-1 if made_pass == BACKWARD else 1 for made_pass in made)
            assert max(in_flight) == len(expected), (each, num_microbatches, stage)
