"""Silent mistakes of Megatron-core under DeepSpeed: the comparison of layouts must find each one.

Each trap removes the code that prevents a mistake. Nothing crashes and the loss still falls, but losses or gradient
norms differ from those of one rank. A comparison that does not notice would be useless.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch.distributed as dist

from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.data.batches import Batch, Microbatch
from pause_megatron.engine import build, shared_gradients
from pause_megatron.model import gpt
from tests.distributed import run_distributed
from tests.quick import others_slow
from tests.training.layout_table import MODELS, TOLERANCE
from tests.training.runs import GPT2, QWEN3, Run, largest_differences, train_all

TP2 = ParallelConfig(tensor_model_parallel_size=2)
TP2_SP = replace(TP2, sequence_parallel=True)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
PP2_VP2 = replace(PP2, virtual_pipeline_model_parallel_size=2)
TIED = MODELS["gpt2 tied"]


def accumulate_in_deepspeed_too() -> None:
    """Gradients are divided by the number of microbatches twice."""
    config = build.deepspeed_config
    build.deepspeed_config = lambda *given: {**config(*given), "gradient_accumulation_steps": 4}


def batch_communication_of_the_interleaved_schedule() -> None:
    """With two stages, the previous and the next rank are the same, and batched sends and receives mix up."""
    config = gpt.transformer_config

    def batched(*given: Any) -> Any:
        found = config(*given)
        found.overlap_p2p_comm, found.batch_p2p_comm = False, True
        return found

    gpt.transformer_config = batched


def pad_the_vocabulary_by_the_layout() -> None:
    """Padding rows take part in the softmax, so their number must not depend on the tensor-parallel size."""
    gpt.padded_vocab_size = lambda size: 256 * int(os.environ["WORLD_SIZE"])


def leave_parameters_unmarked() -> None:
    """Parameters do not know along which dimension they are sharded."""
    named_parameters = gpt.named_parameters

    def unmarked(chunks: Any) -> Any:
        for chunk in chunks:
            for parameter in chunk.parameters():
                parameter.tensor_model_parallel = False
        return named_parameters(chunks)

    gpt.named_parameters = unmarked


def do_not_reduce_shared_gradients() -> None:
    """Each rank has only part of the gradient of tied embeddings, norms under sequence parallelism, and QK norms."""
    shared_gradients.reduce_shared_gradients = lambda *_: None
    build.partial_parameters = lambda parameters: []


def count_tied_embeddings_twice() -> None:
    """Both stages that hold the tied embeddings add them to the gradient norm."""
    build_engine = build.build_engine

    def unmarked(model: Any, **given: Any) -> Any:
        parameters = [replace(item, tied_copy=False) for item in model.parameters]
        return build_engine(replace(model, parameters=parameters), **given)

    from tests.training import runs

    runs.build_engine = unmarked


def average_over_own_targets() -> None:
    """Means over each rank's own targets give more weight to the targets of a rank with many pauses."""
    microbatches = Batch.__iter__

    def weighted(batch: Batch) -> Iterator[Microbatch]:
        own = batch.is_target.float().mean()
        of_all = own.clone()
        dist.all_reduce(of_all)
        factor = of_all / dist.get_world_size() / own
        for each in microbatches(batch):
            yield replace(each, loss_weights=each.loss_weights * factor)

    Batch.__iter__ = weighted


@dataclass(frozen=True)
class Trap:
    """A mistake, and a layout that it affects."""

    set_up: Callable[[], None]
    run: Run
    world_size: int = 2


TRAPS = [
    Trap(accumulate_in_deepspeed_too, Run(zero_stage=2), world_size=1),
    Trap(batch_communication_of_the_interleaved_schedule, Run(parallel=PP2_VP2)),
    Trap(pad_the_vocabulary_by_the_layout, Run(parallel=TP2)),
    Trap(leave_parameters_unmarked, Run(parallel=TP2)),
    Trap(do_not_reduce_shared_gradients, Run(model=TIED, parallel=PP2)),
    Trap(do_not_reduce_shared_gradients, Run(parallel=TP2_SP)),
    Trap(do_not_reduce_shared_gradients, Run(parallel=TP2_SP, zero_stage=2)),
    Trap(do_not_reduce_shared_gradients, Run(model=QWEN3, parallel=TP2)),
    Trap(do_not_reduce_shared_gradients, Run(model=QWEN3, parallel=TP2, zero_stage=3)),
    Trap(count_tied_embeddings_twice, Run(model=TIED, parallel=PP2)),
    Trap(average_over_own_targets, Run()),
]


def step_into(set_up: Callable[[], None], run: Run) -> list[tuple[float, float]]:
    """Train with the mistake; in a process that runs nothing else."""
    set_up()
    return train_all([run])[0]


@pytest.fixture(scope="module")
def reference() -> dict[str, list[tuple[float, float]]]:
    models = [GPT2, TIED, QWEN3]
    curves = run_distributed(train_all, 1, [Run(model=model, last_step=4) for model in models])[0]
    return {str(model): curve for model, curve in zip(models, curves, strict=True)}


@pytest.mark.parametrize("trap", others_slow(TRAPS, TRAPS[::3]), ids=lambda trap: f"{trap.set_up.__name__} {trap.run}")
def test_comparison_of_layouts_finds_the_mistake(reference: dict[str, list[tuple[float, float]]], trap: Trap) -> None:
    run = replace(trap.run, last_step=4)
    curves = run_distributed(step_into, trap.world_size, trap.set_up, run)
    differences = [largest_differences(reference[str(run.model)], curve) for curve in curves]
    assert max(max(pair) for pair in differences) > 10 * TOLERANCE


def train_without_compiler() -> list[tuple[float, float]]:
    os.environ["PATH"] = ""
    return train_all([Run(last_step=1)])[0]


def test_deepspeed_needs_no_compiler_on_a_cpu(reference: dict[str, list[tuple[float, float]]]) -> None:
    assert run_distributed(train_without_compiler, 1)[0] == reference[str(GPT2)][:1]
