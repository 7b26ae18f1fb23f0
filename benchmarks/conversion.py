#!/usr/bin/env python
"""Conversion to Hugging Face and back: bytes a second beside copying the same files, and memory beside their size.

    python benchmarks/conversion.py --work work

A Llama of width 1024 with few layers and with many; the rates are what the further layers cost in wall time, so that
what every command takes to start does not count. ``write`` is the export without its checks: reading the checkpoint,
rearranging, and writing safetensors. ``convert_to_hf`` also verifies the checkpoint's checksums and proves the export,
layer by layer on two sequences of 128 tokens; ``convert_from_hf`` does the same in the other direction. All of them
flush what they wrote to disk, and so does the copy.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from arguments import new_parser, require
from cpu_time import CommandError, Cost, Spread, run_measured
from sections import Section, load_now

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer

HERE = Path(__file__).parent
TOOLS = HERE.parent / "tools"
WORKER = HERE / "conversion_worker.py"
LAYERS = (4, 24)
COPY, WRITE, EXPORT, IMPORT = "copy", "write", "convert_to_hf", "convert_from_hf"
_COPY_PROGRAM = (
    "import os, shutil, sys\n"
    "for path in sys.argv[2:]:\n"
    "    copy = shutil.copy(path, sys.argv[1])\n"
    "    descriptor = os.open(copy, os.O_RDONLY)\n"
    "    os.fsync(descriptor)\n"
)
_PROOF = ("--proof", "layers", "--proof-sequences", "2")


def main() -> None:
    """Measure, print the table and keep it in the work folder."""
    parser = new_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--layers", type=int, nargs=2, default=LAYERS, help="layers of both models (default 4 24)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of everything (default 3)")
    arguments = parser.parse_args()
    few, many = arguments.layers
    require(1 <= few < many, f"--layers {few} {many}: the second must be larger")
    require(arguments.repeats >= 1, f"--repeats {arguments.repeats}: must be at least 1")
    folder = arguments.work / "conversion"
    shutil.rmtree(folder, ignore_errors=True)
    load = load_now()
    try:
        models = [_make(folder, layers) for layers in (few, many)]
        runs = [_measure(folder, models, repeat) for repeat in range(arguments.repeats)]
    except CommandError as error:
        raise SystemExit(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sizes = [size for _, size in models]
    section = Section(
        title="Conversion",
        text=f"Weights of {sizes[0] / 1e6:.0f} and {sizes[1] / 1e6:.0f} MB in fp32, {arguments.repeats} repeats, in "
        "turn. Rates of the further bytes: median (lowest-highest). Most memory of the process in MB, on the small and "
        "on the large model, mapped files included.",
        header=("", "MB/s", "of copying", "small, MB", "large, MB"),
        rows=tuple(_row(who, runs, sizes[1] - sizes[0]) for who in CANDIDATES),
        load=(load, load_now()),
        measurements=[{who: [asdict(cost) for cost in costs] for who, costs in run.items()} for run in runs],
    )
    section.save(arguments.work, "8-conversion")


def _make(folder: Path, layers: int) -> tuple[Path, int]:
    """A Hugging Face folder, the checkpoint beside it, and the bytes of its weights."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        write_pydoc_corpus(folder / "corpus", train_shards=1)
        texts = (str(folder / "corpus" / "*train*"),)
        train_tokenizer(TokenizerConfig(input=texts, output=tokenizer, vocab_size=2048))
    model = folder / str(layers) / "hf"
    run_measured([sys.executable, WORKER, "make", model, tokenizer, str(layers)], folder / "log")
    _import(model, folder / str(layers) / "checkpoint", folder / "log")
    return folder / str(layers), sum(path.stat().st_size for path in model.glob("*.safetensors"))


def _copy(model: Path, output: Path, log: Path) -> Cost:
    output.mkdir()
    files = sorted((model / "hf").glob("*.safetensors"))
    return run_measured([sys.executable, "-c", _COPY_PROGRAM, output, *files], log)


def _write(model: Path, output: Path, log: Path) -> Cost:
    return run_measured([sys.executable, WORKER, "write", model / "checkpoint", output], log)


def _export(model: Path, output: Path, log: Path) -> Cost:
    words = ["--checkpoint", model / "checkpoint", "--output", output, *_PROOF]
    return run_measured([sys.executable, TOOLS / "convert_to_hf.py", *words], log)


def _import(model: Path, output: Path, log: Path) -> Cost:
    words = ["--model", model, "--output", output, *_PROOF]
    return run_measured([sys.executable, TOOLS / "convert_from_hf.py", *words], log)


CANDIDATES: dict[str, Callable[[Path, Path, Path], Cost]] = {
    COPY: _copy,
    WRITE: _write,
    EXPORT: _export,
    IMPORT: lambda model, output, log: _import(model / "hf", output, log),
}


def _measure(folder: Path, models: list[tuple[Path, int]], repeat: int) -> dict[str, list[Cost]]:
    """What every candidate costs on the small and on the large model."""
    found: dict[str, list[Cost]] = {}
    for who in list(CANDIDATES)[:: -1 if repeat % 2 else 1]:
        found[who] = []
        for model, _ in models:
            output = folder / "output"
            found[who].append(CANDIDATES[who](model, output, folder / "log"))
            shutil.rmtree(output)
        print(f"{who} {repeat + 1}: {found[who]}", file=sys.stderr, flush=True)
    return found


def _row(who: str, runs: list[dict[str, list[Cost]]], further_bytes: int) -> tuple[str, ...]:
    rates = [_rate(run[who], further_bytes) for run in runs]
    ratios = [rate / _rate(run[COPY], further_bytes) for rate, run in zip(rates, runs, strict=True)]
    peaks = [max(run[who][index].peak_bytes for run in runs) for index in (0, 1)]
    return who, Spread.of(rates).show(1e6, 0), Spread.of(ratios).show(), *(f"{peak / 1e6:.0f}" for peak in peaks)


def _rate(costs: list[Cost], further_bytes: int) -> float:
    small, large = costs
    return further_bytes / max(large.wall_seconds - small.wall_seconds, 1e-9)


if __name__ == "__main__":
    main()
