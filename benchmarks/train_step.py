#!/usr/bin/env python
"""What a training step takes, beside the same model in transformers with a bare PyTorch loop.

    python benchmarks/train_step.py --work work

On the CPU, in fp32: several sizes, both sides in one process, step by step in turn. On a GPU, in bf16: the presets
130m and 1b on sequences of 2048 tokens, 32 of them a step, the micro-batch swept until memory ends; a machine without a
GPU says "not measured". Each side is also compiled: ours layer by layer, the peer whole. MFU counts the model's
operations (docs/costs.md) against the datasheet's peak, and against what the GPU makes of large matrix products.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from arguments import available_cores, new_parser, require
from cpu_time import Spread
from sections import Section, load_now
from train_worker import OURS, OURS_COMPILED, PEER, PEER_COMPILED

from pause_megatron.config.model import MODEL_PRESETS, ModelConfig, padded_vocab_size
from pause_megatron.costs.devices import find_device
from pause_megatron.costs.flops import training_flops

SIDES = (OURS, PEER, OURS_COMPILED, PEER_COMPILED)
VOCAB_SIZE = padded_vocab_size(32_000)
MICRO_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
GPU_MODELS = ("130m", "1b")
GPU_REPEATS = 5
_NOT_MEASURED = "not measured"
_OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and batch."""

    name: str
    model: ModelConfig
    seq_length: int
    batch_size: int
    micro_batch_size: int
    vocab_size: int = VOCAB_SIZE
    precision: str = "fp32"

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.batch_size * self.seq_length

    @property
    def flops(self) -> int:
        """The model's operations a step."""
        one = training_flops(self.model, vocab_size=self.vocab_size, seq_length=self.seq_length)
        return one.model * self.batch_size

    @property
    def job(self) -> dict[str, Any]:
        """For the worker."""
        names = ("vocab_size", "seq_length", "batch_size", "micro_batch_size", "precision")
        return {"model": asdict(self.model), "workload": {name: getattr(self, name) for name in names}}


def _cpu_cases() -> list[Case]:
    tiny = ModelConfig(**MODEL_PRESETS["tiny"])
    small = ModelConfig(num_layers=6, hidden_size=384, num_attention_heads=6, max_position_embeddings=256)
    sizes = {"tiny": (tiny, 1024), "small": (small, 8192)}
    cases = [
        Case(
            name=f"{size}, {architecture}",
            model=replace(model, architecture=architecture),
            vocab_size=vocab_size,
            seq_length=128,
            batch_size=8,
            micro_batch_size=8,
        )
        for size, (model, vocab_size) in sizes.items()
        for architecture in ("gpt2", "llama")
    ]
    preset = ModelConfig(**MODEL_PRESETS["130m"])
    return [*cases, Case(name="130m, gpt2", model=preset, seq_length=256, batch_size=2, micro_batch_size=2)]


def main() -> None:
    """Measure what there is, print the tables and keep them in the work folder."""
    parser = new_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    parser.add_argument("--repeats", type=int, default=20, help="measured steps of each side on the CPU (default 20)")
    parser.add_argument("--cases", nargs="+", help="CPU cases by the beginning of their names (default: all)")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled sides out")
    arguments = parser.parse_args()
    require(arguments.repeats >= 1, f"--repeats {arguments.repeats}: must be at least 1")
    wanted = tuple(arguments.cases or [""])
    cases = [case for case in _cpu_cases() if case.name.startswith(wanted)]
    require(bool(cases), f"--cases {' '.join(wanted)}: there are {', '.join(case.name for case in _cpu_cases())}")
    sides = SIDES[:2] if arguments.no_compile else SIDES
    if not torch.cuda.is_available():  # the worker would compute on the GPU
        _cpu_section(cases, sides, arguments.repeats).save(arguments.work, "6-train-step-cpu")
    _gpu_section(sides).save(arguments.work, "7-train-step-gpu")


def _cpu_section(cases: list[Case], sides: tuple[str, ...], repeats: int) -> Section:
    load, threads = load_now(), available_cores()
    found = {case.name: _work({**case.job, "sides": sides, "repeats": repeats, "threads": threads}) for case in cases}
    return Section(
        title="A training step on the CPU",
        text=f"fp32, one process with {threads} threads, a batch in one microbatch; {repeats} steps of each side, in "
        "turn. Milliseconds of wall time: median (lowest-highest). Ours divided by transformers with a bare loop, step "
        "by step: wall time, and processor time.",
        header=("model", "tokens", "side", "ms", "ours / theirs", "processor time"),
        rows=tuple(row for case in cases for row in _cpu_rows(case, found[case.name])),
        load=(load, load_now()),
        measurements=found,
    )


def _cpu_rows(case: Case, found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    parameters = case.model.num_parameters(case.vocab_size)
    for side, taken in found.items():
        other = {OURS: PEER, OURS_COMPILED: PEER_COMPILED}.get(side)
        ratios = ("", "")
        if other:
            ratios = tuple(
                f"**{ratio.median:.2f}** ({ratio.low:.2f}-{ratio.high:.2f})"
                for ratio in (_ratio(taken[clock], found[other][clock]) for clock in ("wall", "cpu"))
            )
        model = (
            f"{case.name} ({parameters / 1e6:.2g}M)" if parameters < 1e8 else f"{case.name} ({parameters / 1e6:.0f}M)"
        )
        rows.append((model, str(case.tokens), side, Spread.of(taken["wall"]).show(1e-3, 1), *ratios))
    return rows


def _ratio(ours: list[float], theirs: list[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def _gpu_section(sides: tuple[str, ...]) -> Section:
    load, rows, found = load_now(), [], {}
    limit = _work("gemm") if torch.cuda.is_available() else 0.0
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    device = find_device(name)
    peak = device.peak_tflops("bf16") if device else None
    for preset in GPU_MODELS:
        for side in sides:
            for size in MICRO_BATCH_SIZES:
                case = Case(
                    name=preset,
                    model=ModelConfig(**MODEL_PRESETS[preset]),
                    seq_length=2048,
                    batch_size=max(MICRO_BATCH_SIZES),
                    micro_batch_size=size,
                    precision="bf16",
                )
                answer = _on_gpu(case, side)
                rows.append((preset, side, str(size), *_gpu_figures(case, answer, peak, limit)))
                found[f"{preset}, {side}, {size}"] = answer
                if answer in (_NOT_MEASURED, _OUT_OF_MEMORY):
                    break
    return Section(
        title=f"A training step on a GPU: {name}",
        text=f"bf16, sequences of 2048 tokens, {max(MICRO_BATCH_SIZES)} a step in microbatches; {GPU_REPEATS} steps. "
        f"MFU of the datasheet's peak{f' of {peak:g} TFLOP/s' if peak else ''}, and of the rate of large matrix "
        f"products{f', {limit:.0f} TFLOP/s' if limit else ''}.",
        header=("model", "side", "micro-batch", "tokens/s", "MFU", "of matrix products", "peak GiB"),
        rows=tuple(rows),
        load=(load, load_now()),
        measurements=found,
    )


def _on_gpu(case: Case, side: str) -> Any:
    if not torch.cuda.is_available():
        return _NOT_MEASURED
    try:
        return _work({**case.job, "sides": [side], "repeats": GPU_REPEATS, "threads": available_cores()})[side]
    except subprocess.CalledProcessError as error:
        if "OutOfMemoryError" in error.stderr:
            return _OUT_OF_MEMORY
        sys.stderr.write(error.stderr)
        raise


def _gpu_figures(case: Case, answer: Any, peak: float | None, limit: float) -> tuple[str, ...]:
    if answer in (_NOT_MEASURED, _OUT_OF_MEMORY):
        return (answer, "", "", "")
    seconds = Spread.of(answer["wall"]).median
    tflops = case.flops / seconds / 1e12
    return (
        f"{case.tokens / seconds:,.0f}",
        f"{tflops / peak:.1%}" if peak else "peak not known",
        f"{tflops / limit:.1%}",
        f"{answer['peak_bytes'] / 2**30:.1f}",
    )


def _work(job: Any) -> Any:
    """What a worker process answers."""
    shown = job if isinstance(job, str) else f"{job['sides']} {job['workload']}"
    print(f"measuring {shown}", file=sys.stderr, flush=True)
    command = [sys.executable, str(Path(__file__).with_name("train_worker.py")), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
