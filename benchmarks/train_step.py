#!/usr/bin/env python
"""Time of a training step, compared with transformers with a plain PyTorch loop, and with its own matrix products.

    python benchmarks/train_step.py --work work

On the CPU in fp32: several sizes, all sides in one process, step by step in turn. On a GPU in bf16: the presets 130m
and 1b on sequences of 2048 tokens, 32 per step, with growing micro-batches until memory or --seconds are exhausted;
each side runs in its own process. Each side also runs compiled: ours layer by layer, the other as a complete model. On
the CPU all sides start from the same weights, and their losses must agree; another side computes only the matrix
products of a step (``matrix_products.py``). Both clip to the same norm and use PyTorch's
fused AdamW. Under bf16, transformers computes in autocast on fp32 weights, and ours as in ds_configs/zero1_bf16.json.
MFU relates the model's operations (docs/costs.md) to the peak of the datasheet and to the rate of large matrix
products. Long because it contains both training loops, so that you can compare them.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matrix_products import matrix_products
from measure import Spread, available_cores, in_turn, load_now, new_parser, require, require_at_least, save_table

from pause_megatron.config.deepspeed import TORCH_DTYPES, deepspeed_file
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import CompileLayers, ParallelConfig, resolve_layout
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.costs.devices import find_device
from pause_megatron.costs.flops import training_flops

OURS, PEER, OURS_COMPILED, PEER_COMPILED = "ours", "transformers", "ours, compiled", "transformers, compiled"
SIDES = (OURS, PEER, OURS_COMPILED, PEER_COMPILED)
PRODUCTS = "matrix products"
MICRO_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
GPU_PRESETS = ("130m", "1b")
GPU_REPEATS = 5
OPTIMIZER = OptimizerConfig()
_OUT_OF_MEMORY, _OUT_OF_TIME = "out of memory", "out of time"
_WARM_UP = 3
"""Steps before the measured ones, in which memory is allocated and code is compiled."""
_LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
_GEMM_SIZE, _GEMM_REPEATS = 8192, 50
_EOD_ID = 1
_NO_PAUSE = -1
_SEED = 1234

Step = Callable[[], float | None]
"""Trains on the batch once and returns its loss before the update; None from the bare matrix products."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its batch."""

    name: str
    model: ModelConfig
    seq_length: int
    batch_size: int
    """Sequences per step."""
    micro_batch_size: int
    vocab_size: int = padded_vocab_size(32_000)
    precision: Any = "fp32"

    def microbatches(self, device: torch.device) -> list[torch.Tensor]:
        """The same random tokens on every call, ``[micro_batch_size, seq_length + 1]`` each."""
        shape = self.batch_size, self.seq_length + 1
        tokens = torch.randint(0, self.vocab_size, shape, generator=torch.Generator().manual_seed(_SEED))
        return list(tokens.to(device).split(self.micro_batch_size))


def _cpu_cases() -> list[Case]:
    small = ModelConfig(num_layers=6, hidden_size=384, num_attention_heads=6, max_position_embeddings=256)
    sizes = {"tiny": (ModelConfig(**MODEL_PRESETS["tiny"]), 1024), "small": (small, 8192)}
    batch = {"seq_length": 128, "batch_size": 8, "micro_batch_size": 8}
    cases = [
        Case(name=f"{size}, {kind}", model=replace(model, architecture=kind), vocab_size=vocab_size, **batch)
        for size, (model, vocab_size) in sizes.items()
        for kind in ("gpt2", "llama")
    ]
    preset = ModelConfig(**MODEL_PRESETS["130m"])
    return [*cases, Case(name="130m, gpt2", model=preset, seq_length=256, batch_size=2, micro_batch_size=2)]


def main() -> None:
    """Measure and print the table of the device."""
    parser = new_parser(__doc__, repeats=20)
    parser.add_argument("--cases", nargs="+", help="CPU cases by the beginning of their names (default: all)")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled sides")
    parser.add_argument("--only-compiled", action="store_true", help="leave out the sides that are not compiled")
    parser.add_argument("--presets", nargs="+", default=GPU_PRESETS, choices=MODEL_PRESETS, help="models on a GPU")
    parser.add_argument("--micro-batch-sizes", nargs="+", type=int, default=MICRO_BATCH_SIZES, help="on a GPU")
    parser.add_argument("--seconds", type=float, default=math.inf, help="time limit on a GPU (default: none)")
    arguments = parser.parse_args()
    require_at_least(1, arguments, "repeats", "seconds")
    require(min(arguments.micro_batch_sizes) > 0, "--micro-batch-sizes: must be at least 1")
    wanted, names = tuple(arguments.cases or [""]), [case.name for case in _cpu_cases()]
    cases = [case for case in _cpu_cases() if case.name.startswith(wanted)]
    require(bool(cases), f"--cases {' '.join(wanted)}: unknown case; choose from {', '.join(names)}")
    sides = SIDES[:2] if arguments.no_compile else SIDES[2:] if arguments.only_compiled else SIDES
    if torch.cuda.is_available():
        ends = time.monotonic() + arguments.seconds
        gpu_table(arguments.work, sides, arguments.presets, sorted(arguments.micro_batch_sizes), ends)
    else:
        cpu_table(arguments.work, cases, (*sides, PRODUCTS), arguments.repeats)


def cpu_table(work: Path, cases: list[Case], sides: tuple[str, ...], repeats: int) -> None:
    """Print the table of the CPU."""
    load, rows, found = load_now(), [], {}
    for case in cases:
        found[case.name] = taken = _in_child(case, sides, repeats)
        millions = case.model.num_parameters(case.vocab_size) / 1e6
        model = f"{case.name} ({millions:{'.0f' if millions > 100 else '.2g'}}M)"
        for side in sides:
            ratios = [""] * 4
            if other := {OURS: PEER, OURS_COMPILED: PEER_COMPILED}.get(side):
                ratios = [
                    Spread.ratio(taken[above][clock], taken[below][clock]).show(bold=True)
                    for above, below in ((side, other), (PRODUCTS, side))
                    for clock in ("wall", "cpu")
                ]
            tokens = str(case.batch_size * case.seq_length)
            rows.append([model, tokens, side, Spread.of(taken[side]["wall"]).show(1e-3, 1), *ratios])
    save_table(
        work,
        "train-step-cpu",
        title="A training step on the CPU",
        text=f"fp32, one process with {available_cores()} threads, a batch in one microbatch; {repeats} steps of each "
        "side, in turn. Milliseconds of wall time: median (lowest-highest). Our time divided by that of transformers "
        "with a plain loop, and the time of the bare matrix products divided by ours, step by step: wall time and "
        "processor time.",
        header=[
            *("model", "tokens", "side", "ms"),
            *("ours / theirs", "processor time"),
            *(PRODUCTS + " / ours", "processor time"),
        ],
        rows=rows,
        load=load,
        measurements=found,
    )


def gpu_table(work: Path, sides: Sequence[str], presets: Sequence[str], sizes: Sequence[int], ends: float) -> None:
    """Print the table of the GPU, with what could be measured before the time ``ends`` of :func:`time.monotonic`."""
    load, found = load_now(), {}
    limit, name = gemm_tflops(), torch.cuda.get_device_name()
    device = find_device(name)
    peak = device.peak_tflops("bf16") if device else None
    rows: dict[tuple[str, str, int], list[str]] = {}
    full: set[tuple[str, str]] = set()
    for size, preset, side in itertools.product(sizes, presets, sides):  # all sides of small micro-batches first
        if (preset, side) in full:
            continue
        batch = {"seq_length": 2048, "batch_size": max(MICRO_BATCH_SIZES), "micro_batch_size": size}
        case = Case(name=preset, model=ModelConfig(**MODEL_PRESETS[preset]), precision="bf16", **batch)
        answer = _in_child(case, (side,), GPU_REPEATS, ends)
        if answer == _OUT_OF_MEMORY:
            full.add((preset, side))  # larger ones are out of memory too
        found[f"{preset}, {side}, {size}"] = answer
        rows[preset, side, size] = [preset, side, str(size), *_gpu_figures(case, answer, side, peak, limit)]
    save_table(
        work,
        "train-step-gpu",
        title=f"A training step on a GPU: {name}",
        text=f"bf16, sequences of 2048 tokens, {max(MICRO_BATCH_SIZES)} per step in microbatches; {GPU_REPEATS} steps. "
        f"MFU relative to the datasheet's peak ({f'{peak:g} TFLOP/s' if peak else 'unknown'}) and to the rate of large "
        f"matrix products ({limit:.0f} TFLOP/s).",
        header=["model", "side", "micro-batch", "tokens/s", "MFU", "of matrix products", "peak GiB"],
        rows=[row for _, row in sorted(rows.items())],
        load=load,
        measurements=found,
    )


def _gpu_figures(case: Case, answer: Any, side: str, peak: float | None, limit: float) -> list[str]:
    if answer in (_OUT_OF_MEMORY, _OUT_OF_TIME):
        return [answer, "", "", ""]
    seconds = Spread.of(answer[side]["wall"]).median
    one = training_flops(case.model, vocab_size=case.vocab_size, seq_length=case.seq_length)
    tflops = one.model * case.batch_size / seconds / 1e12
    mfu = f"{tflops / peak:.1%}" if peak else "unknown peak"
    rate = f"{case.batch_size * case.seq_length / seconds:,.0f}"
    return [rate, mfu, f"{tflops / limit:.1%}", f"{answer[side]['peak_bytes'] / 2**30:.1f}"]


def _in_child(case: Case, sides: tuple[str, ...], repeats: int, ends: float = math.inf) -> Any:
    """The answer of :func:`steps` in a process of its own, or "out of memory" or "out of time"."""
    left = ends - time.monotonic()
    if left <= 0:
        return _OUT_OF_TIME
    print(
        f"measuring {case.name}: {', '.join(sides)}, micro-batch {case.micro_batch_size}", file=sys.stderr, flush=True
    )
    job = json.dumps({"case": asdict(case), "sides": sides, "repeats": repeats})
    try:
        done = subprocess.run(
            [sys.executable, __file__, "measure", job],
            capture_output=True,
            text=True,
            timeout=None if math.isinf(left) else left,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _OUT_OF_TIME
    if "OutOfMemoryError" in done.stderr:
        return _OUT_OF_MEMORY
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def steps(case: Case, sides: list[str], repeats: int) -> dict[str, Any]:
    """Seconds of every measured step: ``{side: {"wall": [...], "cpu": [...], "losses": [...], "peak_bytes": ...}}``."""
    torch.set_num_threads(available_cores())
    built: dict[str, Step] = {}
    initial = None
    for side in sides:
        if side in (OURS, OURS_COMPILED):
            built[side], initial = our_step(case, "always" if side == OURS_COMPILED else "never")
        elif side == PRODUCTS:
            sizes = {"seq_length": case.seq_length, "batch_size": case.batch_size}
            built[side] = matrix_products(case.model, vocab_size=case.vocab_size, **sizes)
        else:
            built[side] = peer_step(case, initial, compiled=side == PEER_COMPILED)
    losses = {side: [step() for _ in range(_WARM_UP)] for side, step in built.items()}
    trained = [losses[side] for side in built if side != PRODUCTS]
    for pair in zip(*trained, strict=True):
        close = math.isclose(min(pair), max(pair), rel_tol=_LOSS_TOLERANCE[case.precision])
        require(close, f"{case.name}: the sides train different models: {losses}")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, Any] = {side: {"wall": [], "cpu": [], "losses": losses[side]} for side in built}
    for repeat in range(repeats):
        for side in in_turn(built, repeat):
            wall, cpu = _clocks()
            built[side]()
            wall_end, cpu_end = _clocks()
            found[side]["wall"].append(wall_end - wall)
            found[side]["cpu"].append(cpu_end - cpu)
    if torch.cuda.is_available():
        found[sides[0]]["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def _clocks() -> tuple[float, float]:
    """Wall and processor time after the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def our_step(case: Case, compile_layers: CompileLayers) -> tuple[Step, dict[str, torch.Tensor]]:
    """This project's step as ``pretrain`` runs it on one process, and its initial weights by Hugging Face names."""
    import torch.distributed as dist

    from pause_megatron.conversion.table import to_hf_state
    from pause_megatron.data.batches import Batch
    from pause_megatron.engine.build import build_engine
    from pause_megatron.model.gpt import build_local_model
    from pause_megatron.parallel.groups import device, initialize_process_groups
    from pause_megatron.parallel.launcher import detect_launch
    from pause_megatron.parallel.ports import free_port
    from pause_megatron.training.step import Stepper

    precision = {} if case.precision == "fp32" else {case.precision: {"enabled": True}}
    settings = {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}}
    file = deepspeed_file(Path("train_step"), {**precision, **settings})
    parallel, sizes = ParallelConfig(compile_layers=compile_layers), {"vocab_size": case.vocab_size}
    layout = resolve_layout(parallel, world_size=1, model=case.model, deepspeed=file, **sizes)
    if not dist.is_initialized():
        initialize_process_groups(replace(detect_launch({}), master_port=free_port()), layout, seed=_SEED)
    dtype = getattr(torch, TORCH_DTYPES[file.precision])
    model = build_local_model(case.model, layout, seed=_SEED, dtype=dtype, **sizes)
    weights = {item.shard.name: item.parameter.detach() for item in model.parameters}
    state = to_hf_state(weights.__getitem__, case.model, case.vocab_size)
    initial = {name: tensor.float().clone() for name, tensor in state}
    batch_sizes = {"global_batch_size": case.batch_size, "micro_batch_size": case.micro_batch_size}
    training = TrainingConfig(train_iters=1, **batch_sizes)
    engine = build_engine(model, deepspeed_file=file, optimizer=OPTIMIZER, training=training)
    stepper = Stepper(model, engine, layout, device())
    batch = Batch.of(torch.stack(case.microbatches(device())), pause_ids=_NO_PAUSE)

    def step() -> float:
        report = stepper.accumulate(batch)
        stepper.update(OPTIMIZER.learning_rate)
        return report.losses.mean

    return step, initial


def peer_step(case: Case, initial: dict[str, torch.Tensor] | None, *, compiled: bool) -> Step:
    """The same step of the same model with transformers and PyTorch, from ``initial`` weights or random ones."""
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    from pause_megatron.conversion.hf_config import hf_model_config

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = hf_model_config(case.model, vocab_size=case.vocab_size, eod_id=_EOD_ID)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    if initial:
        missing, unexpected = model.load_state_dict(initial, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= {"lm_head.weight"}, missing  # tied to the embedding
    model.to(device).train()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": OPTIMIZER.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    betas = (OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2)
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER.learning_rate, betas=betas, eps=OPTIMIZER.adam_eps, fused=True)
    forward = torch.compile(model) if compiled else model
    dtype = getattr(torch, TORCH_DTYPES[case.precision])
    batches, targets = case.microbatches(device), case.batch_size * case.seq_length

    def step() -> float:
        total = torch.zeros((), device=device)
        for tokens in batches:
            with torch.autocast(device.type, dtype, enabled=case.precision != "fp32"):
                logits = forward(input_ids=tokens[:, :-1], use_cache=False).logits
            losses = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
            loss = losses / targets
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    return step


def gemm_tflops() -> float:
    """Rate of large bf16 matrix products on this GPU, in TFLOP/s."""
    a, b = (torch.randn(_GEMM_SIZE, _GEMM_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(_GEMM_REPEATS):
        a @ b
    started, _ = _clocks()
    for _ in range(_GEMM_REPEATS):
        a @ b
    seconds = _clocks()[0] - started
    return 2 * _GEMM_SIZE**3 * _GEMM_REPEATS / seconds / 1e12


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        job = json.loads(sys.argv[2])
        case = Case(**{**job["case"], "model": ModelConfig(**job["case"]["model"])})
        print(json.dumps(steps(case, job["sides"], job["repeats"])), flush=True)
    else:
        main()
