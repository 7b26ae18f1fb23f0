"""Command lines of the demo, as you would type them, at a size for a laptop."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from pause_megatron.atomic import write_file
from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST
from pause_megatron.children import available_cores
from pause_megatron.experiments.steps import Step, command
from pause_megatron.records.reproduction import ReproductionRecord

PRETRAINED = {"stdpt": "standard", "pausept": "pause"}
"""Name of a pretrained model to the kind of its dataset."""
GRID_FILE = "grid.yaml"
CONTROL = "parity-hints"
"""Experiment of ``pause-megatron reproduce``, and the folder of its files."""
CONTROL_STEPS = 800
TASK = "parity"
"""Task that a tiny model can learn, and where pauses can help if the prefix attends causally; see
``downstream.generated_tasks``."""


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """Sizes of a demo; by default those of the complete one."""

    vocab_size: int = 2048
    max_documents: int = 2000
    seq_length: int = 256
    num_layers: int = 2
    hidden_size: int = 32
    train_iters: int = 200
    global_batch_size: int = 16
    num_pauses_ft: int = 16
    num_pauses_inf: tuple[int, ...] = (0, 8, 16, 24)
    finetune_seeds: tuple[int, ...] = (0, 1, 2)
    finetune_steps: int = 2000
    train_samples: int = 50_000
    test_samples: int = 1000
    control: bool = True
    """Whether to repeat a published experiment in which pauses are known to help."""


FAST = DemoSize(
    vocab_size=512,
    max_documents=200,
    seq_length=64,
    train_iters=20,
    global_batch_size=8,
    num_pauses_ft=4,
    num_pauses_inf=(0,),
    finetune_seeds=(0,),
    finetune_steps=20,
    train_samples=2000,
    test_samples=20,
    control=False,
)


def tokenizer_step(output: Path, size: DemoSize) -> Step:
    """Train the tokenizer on the training shards."""
    folder = output / "tokenizer"
    flags = ["--input", output / "corpus" / "*train*", "--vocab-size", size.vocab_size, "--output", folder]
    return Step(name="tokenizer", action=command("tokenizer", *flags), products=[folder / "manifest.json"])


def preprocess_step(output: Path, size: DemoSize, split: str, kind: str) -> Step:
    """Write the ``standard`` or ``pause`` dataset of one split."""
    folder = output / "data" / f"{split}-{kind}"
    flags = ["--input", output / "corpus" / f"*{split}*", "--tokenizer", output / "tokenizer", "--output", folder]
    flags += ["--pauses", "none" if kind == "standard" else "sequence", "--seq-length", size.seq_length]
    name = f"preprocess-{split}-{kind}"
    return Step(name=name, action=command("preprocess", *flags), products=[folder / "dataset.json"])


def pretrain_step(output: Path, size: DemoSize, name: str, kind: str) -> Step:
    """Pretrain one model on two processes with tensor parallelism, and validate on both held-out datasets."""
    run, data = output / "pretrain" / name, output / "data"
    flags = ["--processes", 2, "--tensor-model-parallel-size", 2]
    flags += ["--deepspeed", "zero1_fp32"]
    flags += ["--data", data / f"train-{kind}", "--tokenizer", output / "tokenizer", "--output", run]
    flags += ["--validation-data", data / "validation-standard", data / "validation-pause"]
    flags += ["--num-layers", size.num_layers, "--hidden-size", size.hidden_size, "--num-attention-heads", 4]
    flags += ["--max-position-embeddings", size.seq_length, "--learning-rate", 2e-3, "--warmup-fraction", 0.05]
    flags += ["--init-method-std", 0.1]  # so narrow a model hardly learns with the usual 0.02
    flags += ["--train-iters", size.train_iters, "--global-batch-size", size.global_batch_size]
    flags += ["--micro-batch-size", size.global_batch_size, "--log-interval", max(size.train_iters // 20, 1)]
    flags += ["--validation-interval", max(size.train_iters // 8, 1), "--save-interval", size.train_iters // 3]
    newest = run / CHECKPOINTS / checkpoint_name(size.train_iters) / MANIFEST
    return Step(name=f"pretrain-{name}", action=command("pretrain", *flags), products=[newest])


def convert_step(output: Path, name: str) -> Step:
    """Export one pretrained model."""
    folder = output / "hf" / name
    flags = ["--checkpoint", output / "pretrain" / name, "--output", folder]
    return Step(name=f"convert-{name}", action=command("convert-to-hf", *flags), products=[folder])


def write_grid(output: Path, size: DemoSize) -> None:
    """Write the grid file: the four variants, each evaluated with more and fewer pauses too."""
    grid = {
        "models": {name: str(output / "hf" / name) for name in PRETRAINED},
        "tasks": {TASK: str(output / "tasks" / TASK)},
        "num_pauses_ft": [0, size.num_pauses_ft],
        "num_pauses_inf": ["same", *size.num_pauses_inf],
        "seeds": list(size.finetune_seeds),
        "finetune": {
            "preset": "tiny",
            "prefix_attention": "causal",
            "steps": size.finetune_steps,
            "warmup_steps": min(100, size.finetune_steps // 4),
        },
        "evaluate": {"batch_size": 128},
    }
    with write_file(output / GRID_FILE) as file:
        file.write(yaml.safe_dump(grid, sort_keys=False).encode())


def grid_step(output: Path, size: DemoSize) -> Step:
    """Finetune and evaluate the models of the grid file."""
    flags = ["--grid", output / GRID_FILE, "--output", output / "grid", "--jobs", available_cores()]
    results = [
        output / "grid" / "evaluate" / TASK / f"{name}-ft{num_pauses_ft}-inf{num_pauses_inf}-seed{seed}.json"
        for seed in size.finetune_seeds
        for name in PRETRAINED
        for num_pauses_ft in (0, size.num_pauses_ft)
        for num_pauses_inf in sorted({num_pauses_ft, *size.num_pauses_inf})
    ]
    return Step(name="grid", action=command("grid", *flags), products=results, show_all_lines=True)


def control_step(output: Path) -> Step:
    """Repeat a published experiment in which pauses are known to help, with one seed."""
    folder = output / CONTROL
    flags = [CONTROL, "--seeds", 0, "--set", f"finetune.steps={CONTROL_STEPS}"]
    flags += ["--output", folder, "--jobs", available_cores()]
    products = [folder / ReproductionRecord.FILE, folder / "report" / "report.html"]
    return Step(name=CONTROL, action=command("reproduce", *flags), products=products, show_all_lines=True)


def report_step(output: Path, size: DemoSize) -> Step:
    """Write the report on the pretraining runs, all evaluations and the control."""
    folder = output / "report"
    flags = ["--pretrain", *(output / "pretrain" / name for name in PRETRAINED)]
    flags += ["--evaluations", output / "grid" / "evaluate"]
    if size.control:
        flags += ["--reproductions", output / CONTROL / ReproductionRecord.FILE]
    flags += ["--title", "Does pausing help? A demo", "--output", folder]
    return Step(name="report", action=command("report", *flags), products=[folder / "report.html"])
