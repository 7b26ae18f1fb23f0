"""The formula for activations equals the bytes that autograd keeps of the real model."""

from __future__ import annotations

import pytest
import torch

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.costs.activations import Activations
from tests.costs.live_memory import kept_for_backward
from tests.costs.local_models import MODELS, VOCAB_SIZE, layout, local_model, of_layouts, random_tokens
from tests.distributed import run_distributed

SEQUENCES, SEQ_LENGTH = 2, 32
RECOMPUTATIONS = [
    {},
    {"recompute_granularity": "selective"},
    {"recompute_granularity": "full"},
    {"recompute_granularity": "full", "recompute_num_layers": 2},
]
LAYOUTS = {
    1: [layout(**recomputation) for recomputation in RECOMPUTATIONS],
    2: [layout(tp=2), *(layout(tp=2, sequence_parallel=True, **recomputation) for recomputation in RECOMPUTATIONS)],
}
DTYPES = {torch.float32: 0.0, torch.bfloat16: 0.01}
"""Accepted relative difference: CPUs keep the statistics of a bf16 LayerNorm in bf16, GPUs in fp32."""


def counted(models: list[ModelConfig], layouts: list[Layout]) -> list[int]:
    """Bytes that this rank keeps of one microbatch."""
    found = []
    tokens, positions, labels = random_tokens(SEQUENCES, SEQ_LENGTH)
    for each in of_layouts(layouts):
        for model in models:
            for dtype in DTYPES:
                [chunk] = local_model(model, each, dtype).chunks
                found.append(kept_for_backward(chunk, tokens, positions, None, labels=labels))
    return found


@pytest.mark.parametrize("world_size", LAYOUTS)
def test_kept_bytes_equal_the_formula(world_size: int) -> None:
    models, layouts = list(MODELS.values()), LAYOUTS[world_size]
    cases = [(model, each, dtype) for each in layouts for model in models for dtype in DTYPES]
    for of_process in run_distributed(counted, world_size, models, layouts):
        for (model, each, dtype), found in zip(cases, of_process, strict=True):
            kept = Activations(
                model=model,
                layout=each,
                vocab_size=VOCAB_SIZE,
                sequences=SEQUENCES,
                seq_length=SEQ_LENGTH,
                element=dtype.itemsize,
                on_cpu=True,
            )
            expected = kept.embeddings + kept.chunk_layers + kept.head
            assert expected == pytest.approx(found, rel=DTYPES[dtype]), (model, each, dtype)
