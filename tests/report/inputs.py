"""Made-up evaluation results and pretraining runs in the real formats. The numbers mean nothing: they are test data."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

VARIANTS = ("stdpt_stdft", "stdpt_pauseft", "pausept_stdft", "pausept_pauseft")
ACCURACY = {"stdpt_stdft": 0.52, "stdpt_pauseft": 0.55, "pausept_stdft": 0.51, "pausept_pauseft": 0.83}
VERSIONS = {"python": "3.11.7", "pause_megatron": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
PROMPT = "Question: is the number of <b>ones</b> in {bits} odd? Think & answer.\nAnswer:"


def evaluation(
    task: str = "parity",
    variant: str | None = "stdpt_stdft",
    *,
    value: float | None = None,
    stderr: float | None = 0.021,
    num_pauses_ft: int | None = None,
    num_pauses_inf: int | None = None,
    seed: int | None = 1,
    num_samples: int = 500,
    **others: Any,
) -> dict[str, Any]:
    """An evaluation result as 'pause-megatron evaluate' writes it."""
    pauses_ft = (10 if (variant or "").endswith("pauseft") else 0) if num_pauses_ft is None else num_pauses_ft
    pauses_inf = pauses_ft if num_pauses_inf is None else num_pauses_inf
    value = ACCURACY[variant or "stdpt_stdft"] if value is None else value
    paused = (variant or "").startswith("pausept")
    pretraining = {
        "name": "pausept" if paused else "stdpt",
        "pauses": "sequence" if paused else "none",
        "pause_rate": 0.1 if paused else 0.0,
        "seq_length": 256,
        "iterations": 400,
        "consumed_samples": 6400,
        "real_tokens": 1_490_000 if paused else 1_638_400,
        "pause_tokens": 148_400 if paused else 0,
    }
    generator = random.Random(f"{task} {variant} {seed} {num_pauses_inf}")
    samples = []
    for item in range(6):
        correct = generator.random() < value
        samples.append(
            {
                "prompt": PROMPT.format(bits=" ".join(f"{item + 37 * len(task):010b}")),
                "pauses": pauses_inf,
                "output": " odd" if correct else " even <unk>",
                "target": "odd",
                "correct": float(correct),
            }
        )
    finetuning = {
        "format": "pause_megatron/finetune/1",
        "task": task,
        "num_pauses_ft": pauses_ft,
        "prefix_attention": "bidirectional",
        "seed": seed,
        "steps": 300,
        "final_loss": 0.4 + generator.random() / 10,
        "variant": variant,
        "versions": VERSIONS,
        "seconds": 12.5,
    }
    return {
        "format": "pause_megatron/evaluation/1",
        "task": task,
        "variant": variant,
        "num_pauses_ft": None if variant is None else pauses_ft,
        "num_pauses_inf": pauses_inf,
        "prefix_attention": "bidirectional",
        "seed": seed,
        "primary_metric": "exact_match",
        "metrics": {"exact_match": {"value": value, "stderr": stderr}},
        "num_samples": num_samples,
        "samples": samples,
        "finetuning": None if variant is None else finetuning,
        "pretraining": pretraining,
        "config": {"model": f"finetune/{task}/{variant}", "task": task, "num_pauses_inf": pauses_inf, "limit": None},
        "versions": VERSIONS,
        "seconds": 3.25,
    } | others


def write_evaluation(folder: Path, name: str, values: dict[str, Any]) -> Path:
    """Write a result file and return its path."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def write_variants(
    folder: Path, tasks: tuple[str, ...] = ("parity", "gsm8k"), seeds: tuple[int, ...] = (1,)
) -> list[Path]:
    """All four variants on ``tasks``, a result for each seed; returns the files."""
    generator = random.Random(7)
    paths = []
    for task in tasks:
        for variant in VARIANTS:
            for seed in seeds:
                value = ACCURACY[variant] if task == "parity" else 0.07
                value = round(value + (generator.gauss(0, 0.02) if len(seeds) > 1 else 0.0), 4)
                values = evaluation(task, variant, seed=seed, value=value, stderr=math.sqrt(value * (1 - value) / 500))
                values["metrics"]["rouge1"] = {"value": 0.4, "stderr": None}
                paths.append(write_evaluation(folder, f"{task}/{variant}-{seed}", values))
    return paths


def write_sweep(folder: Path) -> list[Path]:
    """One finetuned model evaluated with fewer and more pauses than it was finetuned with."""
    curve = {0: 0.49, 5: 0.6, 20: 0.74}
    return [
        write_evaluation(
            folder, f"sweep/{pauses}", evaluation("parity", "pausept_pauseft", num_pauses_inf=pauses, value=value)
        )
        for pauses, value in curve.items()
    ]


PAPER_1B = {
    "parameters": 1_349_000_000,
    "num_layers": 24,
    "num_attention_heads": 32,
    "head_dim": 64,
    "hidden_size": 2048,
}


def scored(variant: str, share: float, *, task: str = "squad", seed: int = 1, **others: Any) -> dict[str, Any]:
    """A result that lists all of its 40 items, of which about ``share`` are answered rightly."""
    generator = random.Random(f"{variant} {seed} {others}")
    scores = [float((item * 7919 % 40) / 40 < share + generator.gauss(0, 0.08)) for item in range(40)]
    values = evaluation(task, variant, seed=seed, value=sum(scores) / 40, num_samples=40, **others)
    values["samples"] = [
        values["samples"][0] | {"prompt": f"Question {item}?", "correct": score} for item, score in enumerate(scores)
    ]
    values["metrics"] = {"em": values["metrics"]["exact_match"]}
    return values | {"primary_metric": "em", "architecture": PAPER_1B, "prompt_tokens": 100.0}


def write_ablations(folder: Path, seeds: tuple[int, ...] = (1, 2)) -> list[Path]:
    """SQuAD by a model of the paper's larger size: M_ft and M_inf of 0, 10 and 50, prepended pauses, fillers."""
    paths = []
    for seed in seeds:
        for pretrained, gain in (("stdpt", 0.0), ("pausept", 0.3)):
            for most in (0, 10, 50):
                variant = f"{pretrained}_{'pauseft' if most else 'stdft'}"
                for inference in (0, 10, 50):
                    lost = gain * 1.9 if most and not inference else abs(most - inference) / 400
                    share = 0.35 + gain * bool(most) - lost
                    values = scored(variant, share, seed=seed, num_pauses_ft=most, num_pauses_inf=inference)
                    paths.append(write_evaluation(folder, f"{variant}-{most}-{inference}-{seed}", values))
            prepended = scored(f"{pretrained}_pauseft", 0.4, seed=seed, num_pauses_ft=10, pause_placement="prepend")
            prepended["finetuning"]["pause_placement"] = "prepend"
            paths.append(write_evaluation(folder, f"{pretrained}-prepended-{seed}", prepended))
        filler = scored("stdpt_stdft", 0.3, seed=seed, num_pauses_inf=10, filler=".")
        paths.append(write_evaluation(folder, f"filler-{seed}", filler))
    return paths


def write_finetuned(folder: Path, values: dict[str, Any]) -> None:
    """The finetuned model that ``values`` speak of: its marker and its loss curve, and the path in the result."""
    folder.mkdir(parents=True, exist_ok=True)
    final, pace = values["finetuning"]["final_loss"], 40 + 10 * VARIANTS.index(values["variant"])
    records = [
        {"kind": "train", "step": step, "loss": final + 2 * math.exp(-step / pace), "learning_rate": 1e-4}
        for step in range(10, 310, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "finetune.json").write_text(json.dumps(values["finetuning"]))
    values["config"]["model"] = str(folder)


def write_run(folder: Path, *, paused: bool = False, iterations: int = 400, name: str | None = None) -> Path:
    """A pretraining run that was stopped once and resumed, with two validation sets; returns its folder."""
    folder.mkdir(parents=True)
    name = name or ("pausept" if paused else "stdpt")
    run = {
        "format": "pause_megatron/run/1",
        "name": name,
        "config": {
            "data": f"data/train-{'pause' if paused else 'standard'}",
            "deepspeed": "ds_configs/zero1_fp32.json",
            "model": {"architecture": "gpt2", "num_layers": 4, "hidden_size": 128},
            "parallel": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 1},
            "training": {"train_iters": iterations, "global_batch_size": 16},
        },
        "versions": VERSIONS,
        "dataset": {"strategy": "sequence" if paused else "none", "pause_rate": 0.1, "seq_length": 256},
        "parameters": 1_861_632,
        "world_size": 4,
    }
    (folder / "run.json").write_text(json.dumps(run))
    generator = random.Random(name)
    lines = []
    for start, end in ((10, 200), (160, iterations)):  # stopped at 200, resumed after the checkpoint of 150
        for iteration in range(start, end + 1, 10):
            lines += _records(iteration, paused, generator)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra')
    return folder


def _records(iteration: int, paused: bool, generator: random.Random) -> list[dict[str, Any]]:
    loss = 4.1 + 5 * math.exp(-iteration / 70) + (0.06 if paused else 0.0)
    tokens = iteration * 16 * 256
    pauses = round(0.0906 * tokens) if paused else 0
    records: list[dict[str, Any]] = [
        {
            "kind": "train",
            "iteration": iteration,
            "consumed_samples": iteration * 16,
            "loss": loss + generator.gauss(0, 0.05),
            "grad_norm": 0.9,
            "learning_rate": 3e-4,
            "tokens_per_second": 5200.0 + generator.gauss(0, 60),
            "real_tokens": tokens - pauses,
            "pause_tokens": pauses,
        }
    ]
    if iteration % 50 == 0:
        for kind in ("standard", "pause"):
            held_out = loss + 0.1 + (0.0 if paused == (kind == "pause") else 0.12)
            records.append(
                {
                    "kind": "validation",
                    "iteration": iteration,
                    "dataset": f"validation-{kind}",
                    "pauses": "none" if kind == "standard" else "sequence",
                    "loss": held_out,
                    "perplexity": math.exp(held_out),
                    "real_tokens": 60_000,
                }
            )
    return records
