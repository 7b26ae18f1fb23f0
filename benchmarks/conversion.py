#!/usr/bin/env python
"""Conversion to and from Hugging Face: bytes per second compared with copying the same files, and peak memory.

    python benchmarks/conversion.py --work work

The models are two Llamas of width 1024, one with few layers and one with many. The rates are the further bytes by the
further wall time, so that start-up does not count; the total time of each command is another column. ``copy`` is
``cp``. ``write`` is the export without its checks: it reads the checkpoint, rearranges the weights and writes
safetensors with their SHA-256. ``convert_to_hf`` is the command with its defaults: it also verifies the checksums of
the checkpoint and the logits of the export. ``convert_from_hf`` is the other direction. All of them flush the written
files to disk. Before each measurement, the files it reads are read into the page cache, and what earlier ones wrote is
flushed.
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
_COPY = 'mkdir "$2" && cp --reflink=never "$1"/*.safetensors "$2" && sync "$2"/*'
_READ_BYTES = 1 << 22


def _child(source: Path, *words: object) -> Callable[[Path, Path], Cost]:
    """Function that runs a command which reads ``source`` and writes its last word, the output folder."""

    def run(output: Path, log: Path) -> Cost:
        _settle(source)
        return measure.run_measured([*words, output], log)

    return run


def _settle(source: Path) -> None:
    """Read the files of ``source`` into the page cache, and flush all files to disk."""
    for path in source.glob("*.safetensors"):
        with open(path, "rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass
    os.sync()


def _candidates(model: Path) -> dict[str, Callable[[Path, Path], Cost]]:
    """Name to a function that converts ``model`` to an output folder, with a log file."""
    hf, checkpoint = model / "hf", model / "checkpoint"
    export, start = TOOLS / "convert_to_hf.py", TOOLS / "convert_from_hf.py"
    return {
        "copy": _child(hf, "sh", "-c", _COPY, "copy", hf),
        "write": _child(checkpoint, sys.executable, __file__, "write", checkpoint),
        "convert_to_hf": _child(checkpoint, sys.executable, export, "--checkpoint", checkpoint, "--output"),
        "convert_from_hf": _child(hf, sys.executable, start, "--model", hf, "--output"),
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
            model = folder / str(layers)
            _child(model, sys.executable, __file__, "make", folder / "tokenizer", layers)(model / "hf", log)
            _candidates(model)["convert_from_hf"](model / "checkpoint", log)
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
        "turn. Rates of the further bytes: median (lowest-highest). Seconds of the command, with start-up, and "
        "peak memory of the process in MB, including mapped files, for the small and the large model.",
        header=["", "MB/s", "relative to copy", "small, s", "large, s", "small, MB", "large, MB"],
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
    is_noise = any(rate <= 0 for rate in (*rates, *copied))  # another program slowed the small model down
    peaks = [max(run[who][index].peak_bytes for run in runs) for index in (0, 1)]
    seconds = [Spread.of(run[who][index].wall_seconds for run in runs).show(digits=1) for index in (0, 1)]
    return [
        who,
        "noise" if is_noise else Spread.of(rates).show(1e6, 0),
        "noise" if is_noise else Spread.ratio(rates, copied).show(),
        *seconds,
        *(f"{peak / 1e6:.0f}" for peak in peaks),
    ]


def _rate(costs: list[Cost], further_bytes: int) -> float:
    small, large = costs
    return further_bytes / (large.wall_seconds - small.wall_seconds)


def make(tokenizer_folder: Path, num_layers: int, output: Path) -> None:
    """Write a Hugging Face folder with a random Llama, and train its tokenizer if that does not exist."""
    import torch
    from transformers import AutoModelForCausalLM
    from vocabularies import small_tokenizer

    from pause_megatron.config.model import ModelConfig
    from pause_megatron.conversion.hf_config import hf_model_config
    from pause_megatron.tokenizer.huggingface import to_huggingface

    tokenizer = small_tokenizer(tokenizer_folder)
    sizes = {"hidden_size": 1024, "num_attention_heads": 16, "max_position_embeddings": 2048}
    model = ModelConfig(architecture="llama", num_layers=num_layers, **sizes)
    config = hf_model_config(model, vocab_size=tokenizer.vocab_size, eod_id=tokenizer.eod_id)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(output)
    to_huggingface(tokenizer).save_pretrained(output)


def write(checkpoint: Path, output: Path) -> None:
    """Write the checkpoint's weights as an export, without the checks."""
    from pause_megatron.atomic import new_folder
    from pause_megatron.checkpoint.reader import CheckpointReader
    from pause_megatron.config.model import ModelConfig
    from pause_megatron.conversion.to_hf import write_model
    from pause_megatron.tokenizer import PauseTokenizer

    reader = CheckpointReader(checkpoint)
    model = ModelConfig(**reader.state["config"]["model"])
    with new_folder(output) as folder:  # which waits until all is on disk
        write_model(folder, reader, model, PauseTokenizer.load(checkpoint / "tokenizer"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", tokenizer, num_layers, output]:
            make(Path(tokenizer), int(num_layers), Path(output))
        case ["write", checkpoint, output]:
            write(Path(checkpoint), Path(output))
        case _:
            main()
