"""The formula for parameters equals the count of the real model, on every rank of every layout."""

from __future__ import annotations

import pytest
from megatron.core import parallel_state

from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.costs.model_states import stage_parameters
from tests.costs.local_models import MODELS, VOCAB_SIZE, layout, local_model, of_layouts
from tests.distributed import run_distributed

LAYOUTS = {
    1: [layout()],
    2: [layout(tp=2), layout(pp=2), layout(pp=2, vp=2), layout(dp=2), layout(tp=2, sequence_parallel=True)],
    4: [layout(tp=2, pp=2), layout(tp=2, pp=2, vp=2, sequence_parallel=True), layout(pp=4), layout(pp=2, dp=2)],
}

Counts = tuple[int, int, int]
"""Stage of a rank, its number of parameters, and the size of the largest."""


def counted(models: list[ModelConfig], layouts: list[Layout]) -> list[Counts]:
    """Count this rank's parameters of every model under every layout."""
    found = []
    for each in of_layouts(layouts):
        for model in models:
            sizes = [item.parameter.numel() for item in local_model(model, each).parameters]
            found.append((parallel_state.get_pipeline_model_parallel_rank(), sum(sizes), max(sizes)))
    return found


@pytest.mark.parametrize("world_size", LAYOUTS)
def test_parameters_of_every_rank_equal_the_formula(world_size: int) -> None:
    models, layouts = list(MODELS.values()), LAYOUTS[world_size]
    cases = [(model, each) for each in layouts for model in models]
    for of_process in run_distributed(counted, world_size, models, layouts):
        for (model, each), (stage, total, largest) in zip(cases, of_process, strict=True):
            expected = stage_parameters(model, each, vocab_size=VOCAB_SIZE, stage=stage)
            assert (expected.total, expected.largest) == (total, largest), (model, each, stage)


@pytest.mark.parametrize("preset", MODEL_PRESETS)
def test_one_rank_holds_the_complete_model_with_padding_rows(preset: str) -> None:
    model = ModelConfig(**MODEL_PRESETS[preset])  # type: ignore[arg-type]
    held = stage_parameters(model, layout(), vocab_size=32_297, stage=0)
    assert held.total == model.num_parameters(32_384)
