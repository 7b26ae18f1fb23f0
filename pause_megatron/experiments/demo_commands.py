"""The demo's command lines: each step is what a person would type, at a size that a laptop bears."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pause_megatron
from pause_megatron.checkpoint.names import CHECKPOINTS, MANIFEST, checkpoint_name
from pause_megatron.experiments.steps import Step

REPOSITORY = Path(pause_megatron.__file__).parents[1]
"""The checkout: the demo runs the scripts and configuration files a user would."""
PRETRAINED = {"stdpt": "standard", "pausept": "pause"}
"""Pretrained model to the dataset it is trained on."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of a demo."""

    vocab_size: int
    max_documents: int
    seq_length: int
    num_layers: int
    hidden_size: int
    train_iters: int
    global_batch_size: int
    tasks: tuple[str, ...]
    num_pauses_ft: int
    finetune_steps: int
    train_samples: int
    test_samples: int


FULL = Scale(
    vocab_size=2048,
    max_documents=2000,
    seq_length=256,
    num_layers=2,
    hidden_size=32,
    train_iters=200,
    global_batch_size=16,
    tasks=("parity", "lookup"),
    num_pauses_ft=10,
    finetune_steps=2000,
    train_samples=50_000,
    test_samples=1000,
)
FAST = Scale(
    vocab_size=512,
    max_documents=200,
    seq_length=64,
    num_layers=2,
    hidden_size=32,
    train_iters=20,
    global_batch_size=8,
    tasks=("parity",),
    num_pauses_ft=4,
    finetune_steps=20,
    train_samples=2000,
    test_samples=20,
)


def tokenizer_step(output: Path, scale: Scale) -> Step:
    """Train the tokenizer on the training shards."""
    folder = output / "tokenizer"
    flags = ["--input", output / "corpus" / "*train*", "--vocab-size", scale.vocab_size, "--output", folder]
    return Step(name="tokenizer", action=_command("tokenizer", *flags), product=folder / "manifest.json")


def preprocess_step(output: Path, scale: Scale, split: str, kind: str) -> Step:
    """Write the dataset of one split, ``standard`` or ``pause``."""
    folder = output / "data" / f"{split}-{kind}"
    flags = ["--input", output / "corpus" / f"*{split}*", "--tokenizer", output / "tokenizer", "--output", folder]
    flags += ["--pauses", "none" if kind == "standard" else "sequence", "--seq-length", scale.seq_length]
    name = f"preprocess-{split}-{kind}"
    return Step(name=name, action=_tool("preprocess_c4.py", *flags), product=folder / "dataset.json")


def pretrain_step(output: Path, scale: Scale, name: str, kind: str) -> Step:
    """Pretrain one model on two processes with tensor parallelism."""
    run, data = output / "pretrain" / name, output / "data"
    flags = ["--processes", 2, "--tensor-model-parallel-size", 2]
    flags += ["--deepspeed", REPOSITORY / "ds_configs" / "zero1_fp32.json"]
    flags += ["--data", data / f"train-{kind}", "--tokenizer", output / "tokenizer", "--output", run]
    flags += ["--validation-data", data / "validation-standard", data / "validation-pause"]
    flags += ["--num-layers", scale.num_layers, "--hidden-size", scale.hidden_size, "--num-attention-heads", 4]
    flags += ["--max-position-embeddings", scale.seq_length, "--learning-rate", 2e-3, "--warmup-fraction", 0.05]
    flags += ["--train-iters", scale.train_iters, "--global-batch-size", scale.global_batch_size]
    flags += ["--micro-batch-size", scale.global_batch_size, "--log-interval", max(scale.train_iters // 20, 1)]
    flags += ["--validation-interval", max(scale.train_iters // 8, 1), "--save-interval", scale.train_iters // 3]
    newest = run / CHECKPOINTS / checkpoint_name(scale.train_iters) / MANIFEST
    return Step(name=f"pretrain-{name}", action=_command("pretrain", *flags), product=newest)


def convert_step(output: Path, name: str) -> Step:
    """Export one pretrained model."""
    folder = output / "hf" / name
    flags = ["--checkpoint", output / "pretrain" / name, "--output", folder]
    return Step(name=f"convert-{name}", action=_tool("convert_to_hf.py", *flags), product=folder)


def finetune_step(output: Path, scale: Scale, task: str, name: str, num_pauses: int) -> Step:
    """Finetune one variant on one task."""
    variant = variant_name(name, num_pauses)
    folder = output / "finetune" / task / variant
    flags = ["--preset", "tiny", "--model", output / "hf" / name, "--task", task, "--data", output / "tasks" / task]
    flags += ["--num-pauses-ft", num_pauses, "--steps", scale.finetune_steps, "--output", folder]
    flags += ["--warmup-steps", min(100, scale.finetune_steps // 4)]
    return Step(name=f"finetune-{task}-{variant}", action=_command("finetune", *flags), product=folder)


def evaluate_step(output: Path, scale: Scale, task: str, name: str, num_pauses: int) -> Step:
    """Evaluate one variant on one task, with as many pauses as it was finetuned with."""
    variant = variant_name(name, num_pauses)
    file = evaluation_file(output, task, variant)
    flags = ["--model", output / "finetune" / task / variant, "--task", task, "--data", output / "tasks" / task]
    flags += ["--num-pauses-inf", num_pauses, "--batch-size", 128, "--output", file]
    return Step(name=f"evaluate-{task}-{variant}", action=_command("evaluate", *flags), product=file)


def report_step(output: Path, scale: Scale) -> Step:
    """Write the report on everything."""
    folder = output / "report"
    variants = [variant_name(name, pauses) for name in PRETRAINED for pauses in (0, scale.num_pauses_ft)]
    evaluations = [evaluation_file(output, task, variant) for task in scale.tasks for variant in variants]
    flags = ["--pretrain", *(output / "pretrain" / name for name in PRETRAINED)]
    flags += ["--evaluations", *evaluations, "--title", "Does pausing help? A demo", "--output", folder]
    return Step(name="report", action=_command("report", *flags), product=folder / "report.html")


def variant_name(pretrained: str, num_pauses: int) -> str:
    """The paper's name of a variant."""
    return f"{pretrained}_{'pauseft' if num_pauses else 'stdft'}"


def evaluation_file(output: Path, task: str, variant: str) -> Path:
    """Where the result of one variant on one task is written."""
    return output / "evaluate" / task / f"{variant}.json"


def _command(*arguments: object) -> list[str]:
    return ["-m", "pause_megatron", *map(str, arguments)]


def _tool(script: str, *arguments: object) -> list[str]:
    return [str(REPOSITORY / "tools" / script), *map(str, arguments)]
