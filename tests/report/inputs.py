"""Made-up evaluation results and pretraining runs, built from the record classes. The numbers mean nothing."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.records.conversion import PretrainingRecord
from pause_megatron.records.evaluation import Architecture, EvaluationRecord, Metric, Sample
from pause_megatron.records.files import line_of, write_record
from pause_megatron.records.finetuning import FinetuneRecord, FinetuneStepRecord, FinetuneSummary
from pause_megatron.records.pretraining import (
    METRICS_FILE,
    RunRecord,
    TrainingDataRecord,
    TrainRecord,
    ValidationRecord,
)
from pause_megatron.records.variants import VARIANTS
from pause_megatron.report.collect import EvaluationResult
from pause_megatron.report.grouping import group_results
from pause_megatron.report.measurements import TaskResult
from tests.records.examples import example

ACCURACY = {"stdpt_stdft": 0.52, "stdpt_pauseft": 0.55, "pausept_stdft": 0.51, "pausept_pauseft": 0.83}
VERSIONS = {"python": "3.11.7", "pause_megatron": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
PROMPT = "Question: is the number of <b>ones</b> in {bits} odd? Think & answer.\nAnswer:"
SMALL = Architecture(parameters=1_861_632, num_layers=4, num_attention_heads=4, head_dim=32, hidden_size=128)
PAPER_1B = Architecture(parameters=1_349_000_000, num_layers=24, num_attention_heads=32, head_dim=64, hidden_size=2048)


def pretraining(*, paused: bool) -> PretrainingRecord:
    """How the evaluated models were pretrained."""
    return PretrainingRecord(
        name="pausept" if paused else "stdpt",
        pauses="sequence" if paused else "none",
        pause_rate=0.1 if paused else 0.0,
        seq_length=256,
        iterations=400,
        consumed_samples=6400,
        real_tokens=1_490_000 if paused else 1_638_400,
        pause_tokens=148_400 if paused else 0,
    )


def evaluation(
    task: str = "parity",
    variant: str | None = "stdpt_stdft",
    *,
    value: float | None = None,
    stderr: float | None = 0.021,
    num_pauses_ft: int | None = None,
    num_pauses_inf: int | None = None,
    min_num_pauses_ft: int | None = None,
    pause_placement: Any = "append",
    placement_ft: Any = None,
    hint_weight: float | None = None,
    seed: int | None = 1,
    **others: Any,
) -> EvaluationRecord:
    """One result; ``placement_ft`` is ``pause_placement`` by default, and ``others`` replace any field."""
    pauses_ft = (10 if (variant or "").endswith("pauseft") else 0) if num_pauses_ft is None else num_pauses_ft
    pauses_inf = pauses_ft if num_pauses_inf is None else num_pauses_inf
    value = ACCURACY[variant or "stdpt_stdft"] if value is None else value
    generator = random.Random(f"{task} {variant} {seed} {num_pauses_inf}")
    samples = []
    for item in range(6):
        correct, target = generator.random() < value, ("odd", "even")[item % 2]
        samples.append(
            Sample(
                prompt=PROMPT.format(bits=" ".join(f"{item + 37 * len(task):010b}")),
                pauses=pauses_inf,
                output=f" {target}" if correct else " neither <unk>",
                target=target,
                correct=float(correct),
            )
        )
    pretrained = pretraining(paused=(variant or "").startswith("pausept"))
    finetuning = FinetuneSummary(
        task=task,
        num_pauses_ft=pauses_ft,
        min_num_pauses_ft=min_num_pauses_ft,
        pause_placement=placement_ft or pause_placement,
        pause_marker=None,
        prefix_attention="bidirectional",
        hint_weight=hint_weight,
        halve_evaluation=False,
        seed=seed or 0,
        steps=300,
        kept_step=300,
        final_loss=0.4 + generator.random() / 10,
        pretraining=pretrained,
        variant=variant or "",
        versions=VERSIONS,
        seconds=12.5,
    )
    record = EvaluationRecord(
        task=task,
        variant=variant,
        num_pauses_ft=None if variant is None else pauses_ft,
        num_pauses_inf=pauses_inf,
        pause_placement=pause_placement,
        pause_marker=None,
        filler=None,
        prefix_attention="bidirectional",
        halved=False,
        seed=seed,
        primary_metric="exact_match",
        metrics={"exact_match": Metric(value=value, stderr=stderr)},
        num_samples=500,
        prompt_tokens=24.0,
        samples=tuple(samples),
        architecture=SMALL,
        finetuning=None if variant is None else finetuning,
        pretraining=pretrained,
        config={"model": f"finetune/{task}/{variant}", "task": task, "num_pauses_inf": pauses_inf, "limit": None},
        versions=VERSIONS,
        seconds=3.25,
    )
    return replace(record, **others)


def with_scores(record: EvaluationRecord, scores: list[float]) -> EvaluationRecord:
    """``record`` with all of its test items listed."""
    samples = [
        replace(record.samples[0], prompt=f"Question {item}?", target=f"answer {item}", correct=float(score))
        for item, score in enumerate(scores)
    ]
    metric = replace(record.primary, value=sum(scores) / len(scores))
    return replace(record, samples=tuple(samples), num_samples=len(scores), metrics={record.primary_metric: metric})


def scored(variant: str, share: float, *, task: str = "squad", seed: int = 1, **others: Any) -> EvaluationRecord:
    """A result of the paper's larger model that lists its 40 items, of which about ``share`` are correct."""
    generator = random.Random(f"{variant} {seed} {others}")
    scores = [float((item * 7919 % 40) / 40 < share + generator.gauss(0, 0.08)) for item in range(40)]
    values = {"architecture": PAPER_1B, "prompt_tokens": 100.0, "primary_metric": "em"} | others
    metrics = {"em": Metric(value=0.0, stderr=0.021)}
    return with_scores(evaluation(task, variant, seed=seed, metrics=metrics, **values), scores)


def variants(tasks: tuple[str, ...] = ("parity", "gsm8k"), seeds: tuple[int, ...] = (1,)) -> list[EvaluationRecord]:
    """All four variants on ``tasks``, with a second metric."""
    generator = random.Random(7)
    records = []
    for task in tasks:
        for variant in VARIANTS:
            for seed in seeds:
                value = ACCURACY[variant] if task == "parity" else 0.07
                value = round(value + (generator.gauss(0, 0.02) if len(seeds) > 1 else 0.0), 4)
                exact_match = Metric(value=value, stderr=math.sqrt(value * (1 - value) / 500))
                metrics = {"exact_match": exact_match, "rouge1": Metric(value=0.4, stderr=None)}
                records.append(evaluation(task, variant, value=value, seed=seed, metrics=metrics))
    return records


def sweep() -> list[EvaluationRecord]:
    """One finetuned model evaluated with fewer and more pauses than it was finetuned with."""
    curve = {0: 0.49, 5: 0.6, 20: 0.74}
    return [
        evaluation("parity", "pausept_pauseft", num_pauses_inf=pauses, value=value) for pauses, value in curve.items()
    ]


def ablations(seeds: tuple[int, ...] = (1, 2)) -> list[EvaluationRecord]:
    """SQuAD by a model of the paper's larger size: M_ft and M_inf of 0, 10 and 50, prepended pauses, fillers."""
    records = []
    for seed in seeds:
        for pretrained, gain in (("stdpt", 0.0), ("pausept", 0.3)):
            for most in (0, 10, 50):
                variant = f"{pretrained}_{'pauseft' if most else 'stdft'}"
                for inference in (0, 10, 50):
                    lost = gain * 1.9 if most and not inference else abs(most - inference) / 400
                    share = 0.35 + gain * bool(most) - lost
                    records.append(scored(variant, share, seed=seed, num_pauses_ft=most, num_pauses_inf=inference))
            variant = f"{pretrained}_pauseft"
            records.append(scored(variant, 0.4, seed=seed, num_pauses_ft=10, pause_placement="prepend"))
        records.append(scored("stdpt_stdft", 0.3, seed=seed, num_pauses_inf=10, filler="."))
    return records


def results(records: Iterable[EvaluationRecord]) -> tuple[EvaluationResult, ...]:
    """Results as if they were read from files that are named by their numbers."""
    return tuple(
        EvaluationResult(record=record, source=Path(f"{number}.json")) for number, record in enumerate(records)
    )


def grouped(*records: EvaluationRecord) -> tuple[TaskResult, ...]:
    """The tasks that ``records`` are results of."""
    return group_results(results(records))


def write_evaluations(folder: Path, records: Iterable[EvaluationRecord]) -> list[Path]:
    """Write a result file for each record; returns the files."""
    paths = []
    for number, record in enumerate(records):
        paths.append(folder / f"{number:03}-{record.task}-{record.variant}.json")
        folder.mkdir(parents=True, exist_ok=True)
        write_record(paths[-1], record)
    return paths


def write_finetuned(folder: Path, record: EvaluationRecord) -> EvaluationRecord:
    """Write marker and loss curve of the finetuned model that ``record`` evaluates; returns a record that names it."""
    assert record.finetuning is not None
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / FinetuneRecord.FILE, FinetuneRecord(**vars(record.finetuning), config={}))
    final, pace = record.finetuning.final_loss, 40 + 10 * VARIANTS.index(record.finetuning.variant)
    write_lines(
        folder / METRICS_FILE,
        [
            FinetuneStepRecord(step=step, loss=final + 2 * math.exp(-step / pace), learning_rate=1e-4)
            for step in range(10, 310, 10)
        ],
    )
    return replace(record, config=record.config | {"model": str(folder)})


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """Write a ``metrics.jsonl``."""
    path.write_text("".join(json.dumps(line_of(record)) + "\n" for record in records), encoding="utf-8")


def write_run(
    folder: Path,
    *,
    paused: bool = False,
    iterations: int = 400,
    name: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    parameters: int = 1_861_632,
) -> Path:
    """Write a pretraining run that was stopped once and resumed, with two validation sets; returns its folder."""
    folder.mkdir(parents=True)
    name = name or ("pausept" if paused else "stdpt")
    run = RunRecord(
        name=name,
        model_name=model,
        seed=seed,
        config={
            "data": f"data/train-{'pause' if paused else 'standard'}",
            "deepspeed": "ds_configs/zero1_fp32.json",
            "model": {"architecture": "gpt2", "num_layers": 4, "hidden_size": 128},
            "parallel": to_plain(ParallelConfig(tensor_model_parallel_size=2)),
            "training": {"train_iters": iterations, "global_batch_size": 16},
        },
        deepspeed={},
        versions=VERSIONS,
        dataset=TrainingDataRecord(
            strategy="sequence" if paused else "none", pause_rate=0.1, seq_length=256, samples=6400, folders=()
        ),
        parameters=parameters,
        world_size=4,
        zero_stage=1,
        flops_per_sequence=3_000_000_000,
    )
    write_record(folder / RunRecord.FILE, run)
    generator = random.Random(f"{name} {seed or ''}")
    records: list[TrainRecord | ValidationRecord] = []
    for start, end in ((10, 200), (160, iterations)):  # stopped at 200, resumed after the checkpoint of 150
        for iteration in range(start, end + 1, 10):
            records += _logged(iteration, paused, generator)
    write_lines(folder / METRICS_FILE, records)
    with open(folder / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write('{"kind": "tra')  # the run is writing
    return folder


def _logged(iteration: int, paused: bool, generator: random.Random) -> list[TrainRecord | ValidationRecord]:
    loss = 4.1 + 5 * math.exp(-iteration / 70) + (0.06 if paused else 0.0)
    tokens = iteration * 16 * 256
    pauses = round(0.0906 * tokens) if paused else 0
    train = replace(
        example(TrainRecord),
        iteration=iteration,
        consumed_samples=iteration * 16,
        loss=loss + generator.gauss(0, 0.05),
        tokens_per_second=5200.0 + generator.gauss(0, 60),
        real_tokens=tokens - pauses,
        pause_tokens=pauses,
    )
    validation = []
    for kind in ("standard", "pause") if iteration % 50 == 0 else ():
        blocks = [
            loss
            + 0.1
            + (0.0 if paused == (kind == "pause") else 0.12)
            + 0.3 * math.sin(block)
            + generator.gauss(0, 0.02)
            for block in range(20)
        ]
        held_out = sum(blocks) / len(blocks)
        validation.append(
            replace(
                example(ValidationRecord),
                iteration=iteration,
                dataset=f"validation-{kind}",
                pauses="none" if kind == "standard" else "sequence",
                loss=held_out,
                perplexity=math.exp(held_out),
                real_tokens=5000,
                block_losses=tuple(blocks),
                block_targets=(250,) * 20,
            )
        )
    return [train, *validation]
