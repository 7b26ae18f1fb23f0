#!/usr/bin/env python
"""Conversion to and from Hugging Face: bytes per second compared with copying the same files, and peak memory.

    python benchmarks/conversion.py --work work

The models are two Llamas of width 1024, one with few layers and one with many. The rates are the further bytes by the
further wall time, so that start-up does not count. ``write`` is the export without its checks: it reads the checkpoint,
rearranges the weights and writes safetensors. ``convert_to_hf`` also verifies the checksums of the checkpoint and the
logits of the export, layer by layer on two sequences of 128 tokens; ``convert_from_hf`` does the same in the other
direction. All of them flush the written files to disk, and so does the copy.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import measure
from measure import CommandError, Cost, Spread

TOOLS = Path(__file__).parents[1] / "tools"
LAYERS = (4, 24)
_PROOF = ("--proof", "layers", "--proof-sequences", 2)


def _child(*words: object) -> Callable[[Path, Path], Cost]:
    return lambda output, log: measure.run_measured([sys.executable, *words, output], log)


def _candidates(model: Path) -> dict[str, Callable[[Path, Path], Cost]]:
    """Name to a function that converts ``model`` to an output folder, with a log file."""
    export = (TOOLS / "convert_to_hf.py", "--checkpoint", model / "checkpoint", *_PROOF, "--output")
    return {
        "copy": _child(__file__, "copy", model / "hf"),
        "write": _child(__file__, "write", model / "checkpoint"),
        "convert_to_hf": _child(*export),
        "convert_from_hf": _child(TOOLS / "convert_from_hf.py", "--model", model / "hf", *_PROOF, "--output"),
    }


def main() -> None:
    """Measure and print the table."""
    parser = measure.new_parser(__doc__, repeats=3)
    parser.add_argument("--layers", type=int, nargs=2, default=LAYERS, help="layers of both models (default: 4 24)")
    arguments = parser.parse_args()
    few, many = arguments.layers
    measure.require(1 <= few < many, f"--layers {few} {many}: the second must be larger")
    measure.require_at_least(1, arguments, "repeats")
    folder = arguments.work / "conversion"
    shutil.rmtree(folder, ignore_errors=True)
    load, log = measure.load_now(), arguments.work / "log"
    try:
        for layers in arguments.layers:
            _child(__file__, "make", folder / "tokenizer", layers)(folder / str(layers) / "hf", log)
            _candidates(folder / str(layers))["convert_from_hf"](folder / str(layers) / "checkpoint", log)
        runs = [_measure(folder, arguments.layers, repeat, log) for repeat in range(arguments.repeats)]
        sizes = [
            sum(path.stat().st_size for path in (folder / str(layers) / "hf").glob("*.safetensors"))
            for layers in arguments.layers
        ]
    except CommandError as error:
        raise SystemExit(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    measure.save_table(
        arguments.work,
        "conversion",
        title="Conversion",
        text=f"Weights of {sizes[0] / 1e6:.0f} and {sizes[1] / 1e6:.0f} MB in fp32, {arguments.repeats} repeats, in "
        "turn. Rates of the further bytes: median (lowest-highest). Peak memory of the process in MB for the small and "
        "the large model, including mapped files.",
        header=["", "MB/s", "relative to copy", "small, MB", "large, MB"],
        rows=[_row(who, runs, sizes[1] - sizes[0]) for who in runs[0]],
        load=load,
        measurements=[{who: list(map(vars, costs)) for who, costs in run.items()} for run in runs],
    )


def _measure(folder: Path, layers: tuple[int, int], repeat: int, log: Path) -> dict[str, list[Cost]]:
    """The costs of every candidate on the small and on the large model."""
    models = [_candidates(folder / str(number)) for number in layers]
    found: dict[str, list[Cost]] = {name: [] for name in models[0]}
    for who in measure.in_turn(models[0], repeat):
        for model in models:
            found[who].append(model[who](folder / "output", log))
            shutil.rmtree(folder / "output")
    return found


def _row(who: str, runs: list[dict[str, list[Cost]]], further_bytes: int) -> list[str]:
    rates, copied = ([_rate(run[name], further_bytes) for run in runs] for name in (who, "copy"))
    peaks = [max(run[who][index].peak_bytes for run in runs) for index in (0, 1)]
    return [who, Spread.of(rates).show(1e6, 0), Spread.ratio(rates, copied).show(), *(f"{p / 1e6:.0f}" for p in peaks)]


def _rate(costs: list[Cost], further_bytes: int) -> float:
    small, large = costs
    return further_bytes / max(large.wall_seconds - small.wall_seconds, 1e-9)


def copy(source: Path, output: Path) -> None:
    """Copy the weights and flush them to disk."""
    output.mkdir()
    for path in source.glob("*.safetensors"):
        descriptor = os.open(shutil.copy(path, output), os.O_RDONLY)
        os.fsync(descriptor)


def make(tokenizer_folder: Path, num_layers: int, output: Path) -> None:
    """Write a Hugging Face folder with a random Llama, and train its tokenizer if that does not exist."""
    import torch
    from transformers import AutoModelForCausalLM
    from vocabularies import small_tokenizer

    from pause_megatron.config.model import ModelConfig
    from pause_megatron.conversion.hf_config import hf_model_config
    from pause_megatron.tokenizer.huggingface import to_huggingface

    tokenizer = small_tokenizer(tokenizer_folder)
    sizes = {"hidden_size": 1024, "num_attention_heads": 16, "max_position_embeddings": 128}
    model = ModelConfig(architecture="llama", num_layers=num_layers, **sizes)
    config = hf_model_config(model, vocab_size=tokenizer.vocab_size, eod_id=tokenizer.eod_id)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(output)
    to_huggingface(tokenizer).save_pretrained(output)


def write(checkpoint: Path, output: Path) -> None:
    """Write the checkpoint's weights as an export, without the checks."""
    from pause_megatron.checkpoint.reader import CheckpointReader
    from pause_megatron.config.model import ModelConfig
    from pause_megatron.conversion.to_hf import write_model
    from pause_megatron.tokenizer import PauseTokenizer

    reader = CheckpointReader(checkpoint)
    model = ModelConfig(**reader.state["config"]["model"])
    output.mkdir()
    write_model(output, reader, model, PauseTokenizer.load(checkpoint / "tokenizer"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["copy", source, output]:
            copy(Path(source), Path(output))
        case ["make", tokenizer, num_layers, output]:
            make(Path(tokenizer), int(num_layers), Path(output))
        case ["write", checkpoint, output]:
            write(Path(checkpoint), Path(output))
        case _:
            main()
