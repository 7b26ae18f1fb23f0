"""The commands in README's section "The chain by hand" follow from each other, and run in that order at tiny size."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pause_megatron.config.downstream import NUMBER_FIELD
from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from tests.documentation import README, REPOSITORY, Command, code_blocks, our_command, section

CHAIN = section(README, "The chain by hand")
COMMANDS = [
    command
    for block in code_blocks(README)
    if block.text in CHAIN
    for line in block.commands
    if (command := our_command(line))
]
PROVIDED = ("c4/en", "tasks")
"""Folders that the reader provides."""
LAST = {"pauses.png", "report", "report-grid"}
"""Outputs that no later command reads."""
INPUT_FLAGS = (
    *("--input", "--data", "--standard", "--tokenizer", "--model", "--models", "--checkpoint", "--deepspeed"),
    *("--validation-data", "--pretrain", "--evaluations", "--initial-checkpoint"),
)
OUTPUT_FLAGS = ("--output", "--also", "--histogram")


@dataclass(frozen=True)
class Paths:
    """Paths that a command reads and writes."""

    inputs: list[str]
    outputs: list[str]


def paths(command: Command) -> Paths:
    """Return the values of the path flags; ``NAME=PATH`` and ``STRATEGY:PATH`` count as ``PATH``."""
    found: dict[str, list[str]] = {}
    flag = ""
    for word in command.arguments:
        if word.startswith("--"):
            flag = word
        elif flag in INPUT_FLAGS + OUTPUT_FLAGS:
            found.setdefault(flag, []).append(re.split("[=:]", word)[-1])
    inputs = [path for flag in INPUT_FLAGS for path in found.get(flag, [])]
    outputs = [path for flag in OUTPUT_FLAGS for path in found.get(flag, [])]
    return Paths(inputs, [] if "--dry-run" in command.arguments else outputs)


def is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def test_every_input_is_an_earlier_output_or_provided() -> None:
    written: list[str] = []
    for command in COMMANDS:
        for path in paths(command).inputs:
            known = any(is_below(path, folder) for folder in (*written, *PROVIDED))
            known |= any(is_below(output, path) or fnmatch(output, path) for output in written)
            assert known or (REPOSITORY / path).is_file(), f"{command.name}: no command writes {path} before"
        written += paths(command).outputs
    assert len(written) == len(set(written)), "two commands write to one path"


def test_every_output_is_read_later() -> None:
    """So training reads the merged data, and the evaluated models are the exported and finetuned ones."""
    read_later: set[str] = set()
    for command in reversed(COMMANDS):
        for output in paths(command).outputs:
            is_read = any(is_below(output, path) or is_below(path, output) for path in read_later)
            assert is_read or output in LAST, f"{command.name}: no later command reads {output}"
        if command.name not in ("verify-dataset", "inspect-dataset"):
            read_later |= set(paths(command).inputs)


@pytest.mark.parametrize("name", ["merge-datasets", "pretrain", "convert-to-hf", "finetune", "evaluate", "generate"])
def test_both_models_take_every_step(name: str) -> None:
    made = [
        " ".join([*found.inputs, *found.outputs])
        for command in COMMANDS
        if command.name == name and "--dry-run" not in command.arguments
        for found in [paths(command)]
    ]
    for model in ("standard", "pause") if name == "merge-datasets" else ("stdpt", "pausept"):
        assert any(model in each for each in made), f"no {name} for {model}"


def test_provided_folders_are_named_in_the_text() -> None:
    for folder in PROVIDED:
        assert f"`{folder}`" in CHAIN


# The chain for real

TINY_VALUES = {
    "--vocab-size": {"32256": "512"},
    "--seq-length": {"2048": "128"},
    "--files": {"8": "1"},
    "--preset": {"1b": "tiny", "gsm8k-1b": "tiny"},
    "--global-batch-size": {"256": "16"},
    "--micro-batch-size": {"4": "2"},
    "--train-iters": {"381470": "4"},
    "--task": {"gsm8k": "parity"},
    "--data": {"tasks/gsm8k": "tasks/parity"},
    "--grid": {"paper-1b": "grid.yaml"},
}
"""Flag to the value in README and the one to run with."""
TINY_FLAGS = {
    "pretrain": ["--max-position-embeddings", "128", "--log-interval", "1"],
    "finetune": ["--steps", "4", "--warmup-steps", "1", "--batch-size", "4", "--log-interval", "1"],
    "evaluate": ["--limit", "4"],
    "generate": ["--max-new-tokens", "4"],
}
"""Flags added to a command."""
FOUR_PROCESSES = ["--processes", "4"]
"""In place of ``srun``: TP 2 x PP 2."""
TINY_GRID = """
tasks: {parity: {}}
num_pauses_ft: [0, 2]
finetune: {steps: 4, batch_size: 4, warmup_steps: 1, log_interval: 1}
evaluate: {limit: 4, batch_size: 4}
"""


def tiny(command: Command) -> list[str]:
    """Return the command at tiny size, as arguments of Python. Every replacement must apply."""
    arguments, flag = [], ""
    for word in command.arguments:
        flag = word if word.startswith("--") else flag
        sizes = TINY_VALUES.get(flag, {})
        assert word == flag or not sizes or word in {**sizes, **dict.fromkeys(sizes.values())} or flag == "--data"
        arguments.append(sizes.get(word, word))
    arguments += TINY_FLAGS.get(command.name, [])
    if command.launcher == ["srun"]:
        arguments += FOUR_PROCESSES
    start = [f"tools/{command.name}"] if command.name.endswith(".py") else ["-m", "pause_megatron", command.name]
    return [*start, *arguments]


@pytest.mark.slow
def test_chain_runs(tmp_path: Path) -> None:
    for name in ("tools", "ds_configs", "pause_megatron"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "c4").mkdir()
    corpus = write_pydoc_corpus(tmp_path / "c4" / "en", train_shards=2)
    for file in (*corpus.train, corpus.validation):
        file.rename(file.with_name(file.name.replace("pydoc-", "c4-")))
    write_task("parity", tmp_path / "tasks" / "parity", seed=0, train=100, test=20)
    (tmp_path / "grid.yaml").write_text(TINY_GRID, encoding="utf-8")
    for command in COMMANDS:
        arguments = tiny(command)
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        for output in paths(command).outputs:
            assert list(tmp_path.glob(output.replace(NUMBER_FIELD, "*"))), f"{command.name} did not write {output}"
    for report in ("report", "report-grid"):
        text = (tmp_path / report / "report.md").read_text(encoding="utf-8")
        for variant in ("StdPT_StdFT", "StdPT_PauseFT", "PausePT_StdFT", "PausePT_PauseFT"):
            assert variant in text, f"{report} does not show {variant}"
