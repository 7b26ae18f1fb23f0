"""Compiled layers train like uncompiled ones, as one graph if a layer has no collectives."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from torch._dynamo.utils import counters

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import CompileLayers, ParallelConfig, resolve_layout
from pause_megatron.engine.build import build_engine
from pause_megatron.errors import UserError
from pause_megatron.model.compilation import compiler_problem, layer_compilation
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.step import Stepper
from tests.distributed import run_distributed
from tests.training.runs import (
    GPT2,
    LLAMA,
    OPTIMIZER,
    QWEN3,
    TRAINING,
    VOCAB_SIZE,
    Run,
    batch_of,
    largest_differences,
    random_batch,
    train,
)

TP2 = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
LAYERS = 12
"""More than the number of times that ``torch.compile`` compiles a function before it gives up (8)."""


@pytest.fixture
def compiler() -> None:
    """Skip the test where ``torch.compile`` does not work."""
    if problem := compiler_problem("cpu"):
        pytest.skip(problem)


def trained(run: Run) -> tuple[list[tuple[float, float]], int, int]:
    """Losses and gradient norms, the number of compiled graphs, and the number of graph breaks within layers."""
    curve = train(replace(run, last_step=5))
    return curve, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.mark.parametrize(
    "run",
    [
        Run(),
        pytest.param(Run(model=LLAMA, parallel=ParallelConfig(recompute_granularity="full")), marks=pytest.mark.slow),
        Run(model=GPT2, parallel=ParallelConfig(recompute_granularity="selective")),
        pytest.param(Run(model=LLAMA, parallel=TP2), marks=pytest.mark.slow),
        pytest.param(Run(parallel=TP2, zero_stage=2), marks=pytest.mark.slow),
        pytest.param(Run(model=QWEN3, parallel=TP2), marks=pytest.mark.slow),
    ],
    ids=["gpt2", "llama, full", "gpt2, selective", "llama, TP", "gpt2, TP and ZeRO-2", "qwen3, TP"],
)
def test_compiled_layers_have_the_losses_and_norms_of_uncompiled_ones(run: Run, compiler: None) -> None:
    def curves(choice: CompileLayers) -> list[Any]:
        chosen = replace(run, parallel=replace(run.parallel, compile_layers=choice))
        return run_distributed(trained, run.parallel.tensor_model_parallel_size, chosen)

    [plain, *_], [compiled, *_] = curves("auto"), curves("always")
    assert plain[1] == 0, "auto is for GPUs"
    assert compiled[1] > 0
    assert max(largest_differences(plain[0], compiled[0])) < 1e-5
    if run.parallel.tensor_model_parallel_size == 1:
        assert compiled[2] == 0


def graphs(runs: list[Run]) -> list[tuple[int, int]]:
    """Graphs and graph breaks of each run: steps with several numbers of microbatches, and validation after each."""
    torch.compile = partial(torch.compile, backend="aot_eager")  # traces like inductor, but generates no code
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    found = []
    for run in runs:
        stepper = stepper_of(run)
        counters.clear()  # the test of the compiler
        for microbatches in (1, 4, 2):
            samples, _ = random_batch(0)  # [8, S + 1]
            batch = batch_of(samples[: 2 * microbatches], micro_batch_size=2)
            stepper.accumulate(batch)
            stepper.update(1e-3)
            stepper.validate(batch)
        found.append((counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())))
        torch.compiler.reset()
        parallel_state.destroy_model_parallel()
    destroy_process_groups()
    return found


def stepper_of(run: Run) -> Stepper:
    sizes = {"world_size": 1, "vocab_size": VOCAB_SIZE}
    layout = resolve_layout(run.parallel, model=run.model, deepspeed=run.deepspeed_file, **sizes)
    initialize_process_groups(detect_launch(), layout, seed=run.seed)
    model = build_local_model(run.model, layout, vocab_size=VOCAB_SIZE, seed=run.seed)
    engine = build_engine(model, deepspeed_file=run.deepspeed_file, optimizer=OPTIMIZER, training=TRAINING)
    return Stepper(model, engine, layout, device())


@pytest.mark.parametrize(
    "model",
    [pytest.param(GPT2, marks=pytest.mark.slow), LLAMA, pytest.param(QWEN3, marks=pytest.mark.slow)],
    ids=["gpt2", "llama", "qwen3"],
)
def test_all_layers_share_a_graph_for_training_and_one_without_gradients(model: ModelConfig) -> None:
    recomputation = [
        {},
        {"recompute_granularity": "selective"},
        {"recompute_granularity": "full"},
        {"recompute_granularity": "full", "recompute_num_layers": 2},
    ]
    parallel = [ParallelConfig(compile_layers="always", **choice) for choice in recomputation]
    runs = [Run(model=replace(model, num_layers=LAYERS), parallel=each) for each in parallel]
    assert run_distributed(graphs, 1, runs) == [[(2, 0)] * len(runs)]


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget whether ``torch.compile`` works, and what it has compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiler_problem.cache_clear()
    torch.compiler.reset()
    with torch._inductor.config.patch({"cpp.simdlen": 1}):  # else it compiles several programs to find the best
        yield
    compiler_problem.cache_clear()
    torch.compiler.reset()


def assert_falls_back(reason: str) -> None:
    """Assert that "always" is refused with the reason, and that "auto" would not compile."""
    with pytest.raises(UserError, match=re.escape("--compile-layers always: torch.compile fails on cpu")) as refusal:
        layer_compilation("always")
    assert reason in str(refusal.value)
    assert not layer_compilation("auto").compiles
    assert not layer_compilation("never").compiles


def test_missing_compiler_is_refused_before_training(fresh_compiler: None) -> None:
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert_falls_back("install a C++ compiler")


@pytest.mark.filterwarnings("ignore:Can.t find Python.h")
def test_missing_python_headers_are_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, compiler: None, fresh_compiler: None
) -> None:
    paths = sysconfig.get_paths

    def without_headers(*arguments: Any, **keywords: Any) -> dict[str, str]:
        return {**paths(*arguments, **keywords), "include": "/nonexistent", "platinclude": "/nonexistent"}

    monkeypatch.setattr(sysconfig, "get_paths", without_headers)
    assert_falls_back("Python.h: No such file or directory; install Python's headers")


def test_compiler_is_tested_once(compiler: None) -> None:
    before = counters["frames"]["total"]
    assert compiler_problem("cpu") == ""
    assert layer_compilation("always").compiles
    assert counters["frames"]["total"] == before
