"""Evaluation: a model's answers to a task's test split after M_inf pauses, as one result file.

lm-evaluation-harness does the work, on the task definition that finetuning read; the report reads the results.
"""

from __future__ import annotations

import time
from typing import Any

from lm_eval import evaluator

from pause_megatron import log
from pause_megatron.atomic import write_json
from pause_megatron.config.downstream import EvaluateConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import resolve_pausing
from pause_megatron.downstream.tasks import Task, load_task
from pause_megatron.errors import UserError
from pause_megatron.versions import versions

EVALUATION_FORMAT = "pause_megatron/evaluation/1"


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate ``config.model`` on ``config.task`` and write ``config.output``, one file for each number of pauses.

    Model and task are loaded once. Each file is written as soon as its evaluation is done, and holds the record of an
    evaluation with only that number of pauses; its seconds include the loading.

    Raises :class:`UserError` for an output that exists, before anything is loaded; for pauses that the model does not
    know or that do not fit; and for the errors of loading the task and the model.
    """
    evaluations = config.each_number()
    for one in evaluations:
        if one.output.exists():
            raise UserError(f"--output {one.output}: exists already; choose another file, or remove it")
    started = time.monotonic()
    folder = load_model_folder(config.model, config.precision)
    task = load_task(config.task, config.data, halve=_halve_evaluation(folder, config))
    loading = time.monotonic() - started
    for one in evaluations:
        started = time.monotonic()
        record = _evaluate(folder, task, one)
        seconds = round(loading + time.monotonic() - started, 1)
        write_json(one.output, {**record, "seconds": seconds})
        value = record["metrics"][task.primary_metric]["value"]
        log.info(f"wrote {one.output}: {task.primary_metric} {value:.4f} on {record['num_samples']} samples")


def _evaluate(folder: ModelFolder, task: Task, config: EvaluateConfig) -> dict[str, Any]:
    """The record of one evaluation, without its seconds."""
    pausing = resolve_pausing(folder, config.pausing)
    harness_model = PauseLM(folder, pausing, config.batch_size)
    results = evaluator.evaluate(harness_model, {task.name: task.harness}, limit=config.limit)
    finetuning = {key: value for key, value in (folder.finetuning or {}).items() if key != "config"}
    samples = sample_records(task, results["samples"][task.name], pausing.num_pauses)
    return {
        "format": EVALUATION_FORMAT,
        "task": task.name,
        "variant": finetuning.get("variant"),
        "num_pauses_ft": finetuning.get("num_pauses_ft"),
        "num_pauses_inf": pausing.num_pauses,
        "pause_placement": pausing.placement,
        "pause_marker": pausing.marker,
        "filler": config.pausing.filler,
        "prefix_attention": pausing.prefix_attention,
        "halved": task.halved,
        "seed": finetuning.get("seed"),
        "primary_metric": task.primary_metric,
        "metrics": metric_values(results["results"][task.name]),
        "num_samples": len(samples),
        "prompt_tokens": mean_prompt_tokens(folder, samples),
        "samples": samples,
        "architecture": architecture(folder),
        "finetuning": finetuning or None,
        "pretraining": folder.pretraining,
        "config": to_flat(config),
        "versions": versions(),
    }


def _halve_evaluation(folder: ModelFolder, config: EvaluateConfig) -> bool:
    """Whether to evaluate only the documents that finetuning on this task leaves out; by default as in finetuning.

    Raises :class:`UserError` if the model would be evaluated on its training data.
    """
    finetuning = folder.finetuning or {}
    halved = bool(finetuning.get("halve_evaluation")) and finetuning.get("task") == config.task
    if halved and config.halve_evaluation is False:
        raise UserError(
            f"--no-halve-evaluation: {folder.path} was finetuned on half of the evaluation split; remove the flag"
        )
    return halved if config.halve_evaluation is None else config.halve_evaluation


def architecture(folder: ModelFolder) -> dict[str, int]:
    """The model's shape: what a pass over a prompt costs follows from it."""
    config = folder.model.config
    heads, width = config.num_attention_heads, config.hidden_size
    return {
        "parameters": folder.model.num_parameters(),
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": heads,
        "head_dim": getattr(config, "head_dim", None) or width // heads,
        "hidden_size": width,
    }


def mean_prompt_tokens(folder: ModelFolder, samples: list[dict[str, Any]]) -> float:
    """Mean length of the samples' prompts, without pauses and before any truncation (tokens)."""
    encoded = folder.tokenizer([sample["prompt"] for sample in samples], add_special_tokens=False)
    return sum(len(ids) for ids in encoded["input_ids"]) / len(samples)


def metric_values(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The harness's ``{"metric,filter": value, "metric_stderr,filter": error}`` as ``{metric: {value, stderr}}``."""
    values = {key.partition(",")[0]: value for key, value in results.items() if "," in key}
    return {
        name: {"value": float(value), "stderr": _number(values.get(f"{name}_stderr"))}
        for name, value in values.items()
        if not name.endswith("_stderr")
    }


def sample_records(task: Task, samples: list[dict[str, Any]], num_pauses: int) -> list[dict[str, Any]]:
    """What was asked, how many pauses followed, what came out and what was expected, for every sample."""
    return [
        {
            "prompt": sample["arguments"][0][0],
            "pauses": num_pauses,
            "output": _output(task, sample),
            "target": task.target(sample["doc"]),
            "correct": float(sample[task.primary_metric]),
        }
        for sample in samples
    ]


def _output(task: Task, sample: dict[str, Any]) -> str:
    """What the model said, or as good as said."""
    answers = sample["filtered_resps"]
    if task.harness.OUTPUT_TYPE == "generate_until":
        return str(answers[0])
    if task.harness.OUTPUT_TYPE == "multiple_choice":
        scores = [float(score) for score, _ in answers]
        return str(task.harness.doc_to_choice(sample["doc"])[scores.index(max(scores))])
    _, is_greedy = answers[0]
    return task.target(sample["doc"]) if is_greedy else ""  # what else it would have said was not asked


def _number(value: Any) -> float | None:
    """The harness writes "N/A" where it has no standard error."""
    return float(value) if isinstance(value, int | float) else None
