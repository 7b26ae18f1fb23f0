"""Host side of a training step on GPUs, for every layout: waits, copies, kernel launches and compiled graphs.

A step may make the host wait for the GPU at most twice, must copy nothing from pageable memory, and must compile at
most two graphs for twelve layers, also after a validation; more only with tensor parallelism, whose collectives divide
a layer. Layouts of several ranks need as many GPUs. Without them, a module that counts in PyTorch's place can run one
rank of a layout:

    python benchmarks/gpu_step.py --work bench
    python benchmarks/gpu_step.py --work bench --layouts tp2 1b --counters MODULE

The module must have ``install_fake_groups(rank, world_size)``, after which ``init_process_group()`` needs no other
rank, ``reset()``, ``total(prefix)`` with the prefixes
"kernel", "gemm" and "copy host-to-device pageable", and the context manager ``synchronisations()``, which yields the
list of waits.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from measure import load_now, new_parser, require, save_table

from pause_megatron.config.deepspeed import TORCH_DTYPES, deepspeed_file
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.parallel.ports import free_port

MAX_WAITS, MAX_PAGEABLE_COPIES, MAX_GRAPHS = 2, 0, 2
_VOCAB_SIZE = 32_256
_PAUSE_ID = 2
_SEED = 1234
_WARM_UP = 3
"""Steps before the counted one: memory is allocated, code is compiled, and DeepSpeed starts its timers."""
_SMALL = {"hidden_size": 256, "num_attention_heads": 4}
_LLAMA = {**_SMALL, "architecture": "llama", "num_attention_heads": 8, "num_query_groups": 2}
_FP32_GRADIENTS = {"data_types": {"grad_accum_dtype": "fp32"}}
_OFFLOAD = {"offload_optimizer": {"device": "cpu", "pin_memory": True}}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout, and the rank of it to look at."""

    model: dict[str, Any] = field(default_factory=lambda: _SMALL)
    parallel: dict[str, Any] = field(default_factory=dict)
    zero: dict[str, Any] = field(default_factory=lambda: {"stage": 1})
    precision: Any = "bf16"
    deepspeed: dict[str, Any] = field(default_factory=lambda: _FP32_GRADIENTS)
    world_size: int = 1
    rank: int = 0
    micro_batch_size: int = 2
    seq_length: int = 512
    num_microbatches: int = 2
    layers: int = 2
    is_compiled: bool = False


def tensor_parallel(**more: Any) -> dict[str, Any]:
    """Two tensor-parallel ranks."""
    return {"tensor_model_parallel_size": 2, **more}


def pipeline(**more: Any) -> dict[str, Any]:
    """Two pipeline stages."""
    return {"pipeline_model_parallel_size": 2, **more}


CASES = {
    "gpt2": Case(),
    "llama": Case(model=_LLAMA),
    "dp2": Case(world_size=2),
    "dp2-bf16-gradients": Case(world_size=2, deepspeed={}),
    "zero0": Case(world_size=2, zero={"stage": 0}),
    "zero2": Case(world_size=2, zero={"stage": 2}),
    "zero3": Case(world_size=2, zero={"stage": 3}),
    "zero1-offload": Case(world_size=2, zero={"stage": 1, **_OFFLOAD}),
    "zero2-offload": Case(world_size=2, zero={"stage": 2, **_OFFLOAD}, deepspeed={}),
    "zero3-offload": Case(world_size=2, zero={"stage": 3, **_OFFLOAD}),
    "tp2": Case(world_size=2, model=_LLAMA, parallel=tensor_parallel()),
    "tp2-sp": Case(world_size=2, parallel=tensor_parallel(sequence_parallel=True)),
    "tp2-dp2-sp": Case(world_size=4, parallel=tensor_parallel(sequence_parallel=True)),
    "pp2-first": Case(world_size=2, parallel=pipeline()),
    "pp2-last-tied": Case(
        world_size=2, rank=1, parallel=pipeline(), model={**_SMALL, "untie_embeddings_and_output_weights": False}
    ),
    "pp2-dp2": Case(world_size=4, parallel=pipeline()),
    "pp2-vp2": Case(world_size=2, parallel=pipeline(virtual_pipeline_model_parallel_size=2), layers=4),
    "fp16": Case(precision="fp16", deepspeed={}),
    "fp32": Case(precision="fp32", deepspeed={}),
    "selective": Case(parallel={"recompute_granularity": "selective"}),
    "full": Case(model=_LLAMA, parallel={"recompute_granularity": "full"}),
    "gpt2-12": Case(layers=12),
    "llama-12": Case(layers=12, model=_LLAMA),
    "compiled": Case(layers=12, is_compiled=True),
    "compiled-llama": Case(layers=12, is_compiled=True, model=_LLAMA),
    "compiled-selective": Case(layers=12, is_compiled=True, parallel={"recompute_granularity": "selective"}),
    "compiled-tp2-sp": Case(
        world_size=2, layers=12, is_compiled=True, parallel=tensor_parallel(sequence_parallel=True)
    ),
    "1b": Case(world_size=8, model=MODEL_PRESETS["1b"], layers=24, micro_batch_size=4, seq_length=2048),
}


def main() -> None:
    """Count every layout and print the table."""
    parser = new_parser(__doc__, repeats=1)
    parser.add_argument("--layouts", nargs="+", help="names of layouts (default: all)")
    parser.add_argument("--counters", help="module that counts in PyTorch's place, on a machine without GPUs")
    arguments = parser.parse_args()
    wanted = arguments.layouts or list(CASES)
    unknown = [name for name in wanted if name not in CASES]
    require(not unknown, f"--layouts {' '.join(unknown)}: unknown; choose from {', '.join(CASES)}")
    has_gpu = arguments.counters or torch.cuda.is_available()
    require(bool(has_gpu), "--counters: this machine has no GPU; give a module that counts in PyTorch's place")
    load, rows, found, failed = load_now(), [], {}, []
    for name in wanted:
        print(f"counting {name}", file=sys.stderr, flush=True)
        found[name] = counts = _in_children(CASES[name], arguments.counters)
        rows.append([name, *counts.values()] if isinstance(counts, dict) else [name, counts])
        if not _is_good(CASES[name], counts):
            failed.append(name)
    save_table(
        arguments.work,
        "gpu-step",
        title="Host side of a training step on GPUs",
        text="A step after the warm-up, one rank of each layout. Waits: calls in which the host waits for the GPU, "
        f"at most {MAX_WAITS}. Copies: from pageable memory to the GPU, none. Graphs: of layers, compiled by "
        f"torch.compile up to the second validation, at most {MAX_GRAPHS} without tensor parallelism.",
        header=["layout", "waits", "pageable copies", "kernel launches", "graphs"],
        rows=[[str(cell) for cell in row] for row in rows],
        load=load,
        measurements=found,
    )
    require(not failed, f"above the limits, or failed: {', '.join(failed)}")


def _is_good(case: Case, counts: dict[str, int] | str) -> bool:
    if isinstance(counts, str):
        return counts.startswith("needs")
    graphs_are_few = counts["graphs"] <= MAX_GRAPHS or "tensor_model_parallel_size" in case.parallel
    return counts["waits"] <= MAX_WAITS and counts["pageable copies"] <= MAX_PAGEABLE_COPIES and graphs_are_few


def _in_children(case: Case, counters: str | None) -> dict[str, int] | str:
    """What :func:`count` finds on ``case.rank``, or why there is nothing to count."""
    if not counters and torch.cuda.device_count() < case.world_size:
        return f"needs {case.world_size} GPUs"
    job = json.dumps({"case": asdict(case), "counters": counters})
    ranks = [case.rank] if counters else range(case.world_size)
    places = {"WORLD_SIZE": case.world_size, "LOCAL_WORLD_SIZE": case.world_size, "MASTER_PORT": free_port()}
    children = {}
    for rank in ranks:
        place = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", **places}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        children[rank] = subprocess.Popen(
            [sys.executable, __file__, "count", job],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    answers = {rank: child.communicate() for rank, child in children.items()}
    for rank, child in children.items():
        if child.returncode:
            return f"rank {rank} failed: {' '.join(answers[rank][1].split())[-300:]}"
    counts: dict[str, int] = json.loads(answers[case.rank][0].splitlines()[-1])
    return counts


def count(case: Case, counters: Any) -> dict[str, int]:
    """Build the layout, warm up, and count a step; ``counters`` is None or the module of ``--counters``."""
    if counters:
        counters.install_fake_groups(case.rank, case.world_size)
        torch.distributed.init_process_group()  # now, since a rendezvous would wait for the other ranks
    stepper, batch = _built(case)

    def step() -> None:
        stepper.accumulate(batch())
        stepper.update(OptimizerConfig().learning_rate)

    for _ in range(_WARM_UP):
        step()
    counts = _counted(counters, step) if counters else _profiled(step)
    for _ in range(_WARM_UP):
        stepper.validate(batch())
    return {**counts, "graphs": _graphs_of_layers()}


def _graphs_of_layers() -> int:
    """Number of graphs that were compiled from Megatron-core's code."""
    compiled = torch._dynamo.utils.get_compilation_metrics()
    return sum("/megatron/core/" in (each.co_filename or "") and not each.fail_type for each in compiled)


def _built(case: Case) -> tuple[Any, Callable[[], Any]]:
    """A stepper of ``case``, and a function that loads a batch as a run does."""
    from megatron.core import parallel_state

    from pause_megatron.data.batch_loader import BatchLoader
    from pause_megatron.engine.build import build_engine
    from pause_megatron.model.gpt import build_local_model
    from pause_megatron.parallel.groups import device, initialize_process_groups
    from pause_megatron.parallel.launcher import detect_launch
    from pause_megatron.training.step import Stepper

    model = ModelConfig(**{"num_layers": case.layers, "max_position_embeddings": case.seq_length, **case.model})
    precision = {} if case.precision == "fp32" else {case.precision: {"enabled": True}}
    file = deepspeed_file(Path("gpu_step"), {**case.deepspeed, **precision, "zero_optimization": case.zero})
    parallel = ParallelConfig(compile_layers="auto" if case.is_compiled else "never", **case.parallel)
    sizes = {"vocab_size": _VOCAB_SIZE}
    layout = resolve_layout(parallel, world_size=case.world_size, model=model, deepspeed=file, **sizes)
    initialize_process_groups(detect_launch(), layout, seed=_SEED)
    dtype = getattr(torch, TORCH_DTYPES[file.precision])
    local = build_local_model(model, layout, seed=_SEED, dtype=dtype, **sizes)
    sequences = case.micro_batch_size * case.num_microbatches * layout.dp
    training = TrainingConfig(train_iters=1, global_batch_size=sequences, micro_batch_size=case.micro_batch_size)
    engine = build_engine(local, deepspeed_file=file, optimizer=OptimizerConfig(), training=training)
    loader = BatchLoader(
        pause_ids=range(_PAUSE_ID, _PAUSE_ID + 1),
        micro_batch_size=case.micro_batch_size,
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=layout.dp,
        device=device(),
    )
    sample = torch.randint(3, _VOCAB_SIZE, (case.seq_length + 1,)).numpy()
    sample[::7] = _PAUSE_ID
    return Stepper(local, engine, layout, device()), lambda: loader.load(lambda _: sample, 0, sequences)


def _counted(counters: Any, step: Callable[[], None]) -> dict[str, int]:
    counters.reset()
    with counters.synchronisations() as waits:
        step()
    return {
        "waits": len(waits),
        "pageable copies": counters.total("copy host-to-device pageable"),
        "kernel launches": counters.total("kernel") + counters.total("gemm"),
    }


def _profiled(step: Callable[[], None]) -> dict[str, int]:
    """The same counts from PyTorch's profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        with torch.profiler.record_function("counted step"):
            step()
        torch.cuda.synchronize()
    events = list(profile.events() or [])
    window = next(event.time_range for event in events if event.name == "counted step")  # without the last wait
    calls = [event.name for event in events if window.start <= event.time_range.start < window.end]
    return {
        "waits": sum("Synchronize" in name for name in calls),
        "pageable copies": sum(event.name.startswith("Memcpy HtoD (Pageable") for event in events),
        "kernel launches": sum("LaunchKernel" in name for name in calls),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["count"]:
        given = json.loads(sys.argv[2])
        module = importlib.import_module(given["counters"]) if given["counters"] else None
        print(json.dumps(count(Case(**given["case"]), module)), flush=True)
    else:
        main()
