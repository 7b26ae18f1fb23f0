"""Compiled layers train like uncompiled ones, as one graph if a layer has no collectives."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from pause_megatron.config.parallel import CompileLayers, ParallelConfig
from pause_megatron.errors import UserError
from pause_megatron.model.compilation import compiles, has_compiler
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, Run, largest_differences, train

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="torch.compile finds no C++ compiler")
TP2 = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)


def trained(run: Run) -> tuple[list[tuple[float, float]], int, int]:
    """Losses and gradient norms, the number of compiled graphs, and the number of graph breaks within layers."""
    curve = train(replace(run, last_step=5))
    return curve, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@needs_compiler
@pytest.mark.parametrize(
    "run",
    [
        Run(),
        Run(model=LLAMA, parallel=ParallelConfig(recompute_granularity="full")),
        Run(model=GPT2, parallel=ParallelConfig(recompute_granularity="selective")),
        Run(model=LLAMA, parallel=TP2),
        Run(parallel=TP2, zero_stage=2),
    ],
    ids=["gpt2", "llama, full", "gpt2, selective", "llama, TP", "gpt2, TP and ZeRO-2"],
)
def test_compiled_layers_have_the_losses_and_norms_of_uncompiled_ones(run: Run) -> None:
    def curves(choice: CompileLayers) -> list[Any]:
        chosen = replace(run, parallel=replace(run.parallel, compile_layers=choice))
        return run_distributed(trained, run.parallel.tensor_model_parallel_size, chosen)

    [plain, *_], [compiled, *_] = curves("auto"), curves("always")
    assert plain[1] == 0, "auto is for GPUs"
    assert compiled[1] > 0
    assert max(largest_differences(plain[0], compiled[0])) < 1e-5
    if run.parallel.tensor_model_parallel_size == 1:
        assert compiled[2] == 0
        assert compiled[1] < torch._dynamo.config.recompile_limit


def test_missing_compiler_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(UserError, match=re.escape("always: torch.compile needs a C++ compiler")):
        compiles("always")
    assert not compiles("auto")
    assert not compiles("never")
