"""Evaluation of a model on a task's test split, with M_inf pauses in every prompt; writes one result file per M_inf."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator
from transformers import PreTrainedModel

from pause_megatron import log
from pause_megatron.atomic import reserved
from pause_megatron.config.downstream import TEXT_TASK, EvaluateConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.config.task_definitions import find_definition
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.held_out_text import (
    TextLosses,
    is_dataset,
    losses_of_dataset,
    stored_dataset,
    stored_pausing,
)
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.downstream.prompting import Wording, asked_fewshot, decided_wording, refuse_prompting
from pause_megatron.downstream.shared_requests import AnswersAhead
from pause_megatron.downstream.task_results import definition_record, metric_values, results_of
from pause_megatron.downstream.tasks import Task, harness_errors, load_task
from pause_megatron.errors import UserError
from pause_megatron.parallel.process_device import choose_device, describe_device
from pause_megatron.process_memory import keep_freed_memory
from pause_megatron.records.evaluation import (
    Architecture,
    EvaluationRecord,
    Metric,
    PromptingRecord,
    Sample,
    TaskDefinitionRecord,
)
from pause_megatron.records.files import read_record, write_record
from pause_megatron.records.generated_task import GeneratedTaskRecord
from pause_megatron.versions import versions

_HARNESS_SEED = 1234
"""The harness's default seed of PyTorch, NumPy and the choice of few-shot examples."""


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate ``config.model`` on ``config.task`` and write one result file for each number of pauses.

    Each file is written as soon as its evaluation is complete, and equals that of an evaluation with only this number.
    The first evaluation reads each prompt for all numbers, if they can share it.

    Raises :class:`UserError` for an output that exists or that another process is writing, before it loads anything;
    for pauses that the model does not have or that leave no room; for logits that are not finite; and for the errors of
    loading the task and the model.
    """
    evaluations = config.each_number()
    with ExitStack() as reservations:
        for one in evaluations:
            reservations.enter_context(reserved(one.output))
            if one.output.exists():
                raise UserError(f"--output {one.output}: exists already; choose another file, or remove it")
        _evaluate_each(config, evaluations)


def _evaluate_each(config: EvaluateConfig, evaluations: Sequence[EvaluateConfig]) -> None:
    started = time.monotonic()
    definition = find_definition(config.task, config.include_path)  # before the model, which takes longer to load
    choose_device(config.device)
    log.info(f"evaluating {config.model} on {config.task}, on {describe_device().name}")
    folder = load_model_folder(config.model, config.precision)
    if folder.model.device.type == "cpu":
        keep_freed_memory()  # every batch allocates what the one before has freed
    halved, name = False, definition.name
    if name == TEXT_TASK and is_dataset(config.data):
        refuse_prompting(name, config.prompting)
        measure: Callable[[EvaluateConfig], _Results] = partial(_measure_dataset, folder)
    else:
        halve = _halve_evaluation(folder, config, name)
        number = asked_fewshot(folder, name, config.prompting)
        task = load_task(config.task, config.data, include_path=config.include_path, halve=halve, num_fewshot=number)
        wording = decided_wording(folder, task, config.prompting)
        task.require_room(folder.context_length)
        halved, measure = task.halved, partial(_measure_texts, folder, task, wording)
        if not task.scores_texts:
            ahead = AnswersAhead(folder, _possible_pausings(folder, evaluations))
            measure = partial(_measure, folder, task, wording, ahead)
    loading = time.monotonic() - started
    for one in evaluations:
        record = _evaluate(folder, measure, one, loading, task=name, halved=halved)
        write_record(one.output, record)
        log.info(
            f"wrote {one.output}: {record.primary_metric} {record.primary.value:.4f} on {record.num_samples} samples"
        )


@dataclass(frozen=True, kw_only=True)
class _Results:
    """Results of one evaluation, with the pauses that the model had."""

    pausing: Pausing
    primary_metric: str
    metrics: dict[str, Metric]
    num_samples: int
    prompt_tokens: float
    samples: tuple[Sample, ...] = ()
    chance: float | None = None
    definition: TaskDefinitionRecord | None = None
    prompting: PromptingRecord | None = None


def _possible_pausings(folder: ModelFolder, evaluations: Sequence[EvaluateConfig]) -> list[Pausing]:
    """Return the pauses of each evaluation, without those that the model refuses when their turn comes."""
    possible = []
    for one in evaluations:
        with suppress(UserError):
            possible.append(resolve_pausing(folder, one.pausing))
    return possible


def _measure(
    folder: ModelFolder, task: Task, wording: Wording, ahead: AnswersAhead, config: EvaluateConfig
) -> _Results:
    """Evaluate on prompts and answers; the first evaluation finds the answers of all that it can share work with."""
    pausing = resolve_pausing(folder, config.pausing)
    harness_model = PauseLM(folder, pausing, config.batch_size, ahead)
    found = results_of(task, _run_harness(harness_model, task, wording, config), pausing.num_pauses)
    return _Results(
        pausing=pausing,
        primary_metric=found.primary_metric,
        metrics=found.metrics,
        num_samples=len(found.samples),
        prompt_tokens=fmean(len(folder.encode(sample.prompt)) for sample in found.samples),
        samples=found.samples,
        chance=found.chance,
        definition=definition_record(task, found.higher_is_better),
        prompting=wording.record(),
    )


def _run_harness(model: PauseLM, task: Task, wording: Wording, config: EvaluateConfig) -> dict[str, Any]:
    """Return the harness's results, with the seeds of its own command; the examples are the same in each call."""
    random.seed(0)
    np.random.seed(_HARNESS_SEED)
    torch.manual_seed(_HARNESS_SEED)
    task.harness.set_fewshot_seed(_HARNESS_SEED)
    with harness_errors(f"--task {task.name}", only_of_tasks=True):
        found: dict[str, Any] = evaluator.evaluate(
            model, {task.name: task.harness}, limit=config.limit, **wording.arguments()
        )
    return found


def _measure_texts(folder: ModelFolder, task: Task, wording: Wording, config: EvaluateConfig) -> _Results:
    """Score complete texts; the primary metric is the loss of a token, in nats."""
    pausing = resolve_pausing(folder, config.pausing)
    harness_model = PauseLM(folder, pausing, config.batch_size)
    results = _run_harness(harness_model, task, wording, config)
    losses = TextLosses(sums=-np.array(harness_model.text_scores), counts=np.array(harness_model.text_tokens))
    return _Results(
        pausing=pausing,
        primary_metric="loss",
        metrics={**losses.metrics(), **metric_values(results["results"][task.name])},
        num_samples=len(losses.counts),
        prompt_tokens=float(losses.counts.mean()),
        definition=definition_record(task, higher_is_better=False),
    )


def _measure_dataset(folder: ModelFolder, config: EvaluateConfig) -> _Results:
    """Score stored sequences; the primary metric is the loss of a real token, in nats."""
    manifest = stored_dataset(folder, config)
    losses = losses_of_dataset(folder, manifest, config)
    return _Results(
        pausing=stored_pausing(folder, manifest),
        primary_metric="loss",
        metrics=losses.metrics(),
        num_samples=len(losses.counts),
        prompt_tokens=float(losses.counts.mean()),
    )


def _evaluate(
    folder: ModelFolder,
    measure: Callable[[EvaluateConfig], _Results],
    config: EvaluateConfig,
    loading_seconds: float,
    *,
    task: str,
    halved: bool,
) -> EvaluationRecord:
    started = time.monotonic()
    found, finetuning = measure(config), folder.finetuning
    pausing = found.pausing
    assert pausing.placement != "before-unlikely"  # only in finetuning
    return EvaluationRecord(
        task=task,
        definition=found.definition,
        prompting=found.prompting,
        variant=finetuning.variant if finetuning else None,
        num_pauses_ft=finetuning.num_pauses_ft if finetuning else None,
        num_pauses_inf=pausing.num_pauses,
        pause_placement=pausing.placement,
        pause_marker=pausing.marker,
        pause_interval=pausing.interval,
        filler=pausing.filler,
        pause_inputs="repeat" if pausing.repeats_tokens else None,
        prefix_attention=pausing.prefix_attention,
        halved=halved,
        seed=finetuning.seed if finetuning else None,
        primary_metric=found.primary_metric,
        metrics=found.metrics,
        num_samples=found.num_samples,
        chance=found.chance,
        prompt_tokens=found.prompt_tokens,
        bos_ids=folder.bos_ids or None,
        samples=found.samples,
        architecture=_architecture(folder.model),
        finetuning=finetuning.summary() if finetuning else None,
        model_name=folder.model_name,
        pretraining=folder.pretraining,
        device=describe_device().name,
        precision=config.precision,
        generated_task=_generated_task(config.data),
        config=to_flat(config),
        versions=versions(),
        seconds=round(loading_seconds + time.monotonic() - started, 3),
    )


def _generated_task(data: Path | None) -> GeneratedTaskRecord | None:
    file = data and data / GeneratedTaskRecord.FILE
    return read_record(file, GeneratedTaskRecord) if file and file.exists() else None


def _halve_evaluation(folder: ModelFolder, config: EvaluateConfig, task: str) -> bool:
    """Return the flag, or by default the setting of finetuning on this task; refuse to evaluate on training data."""
    finetuning = folder.finetuning
    halved = finetuning is not None and finetuning.halve_evaluation and finetuning.task == task
    if halved and config.halve_evaluation is False:
        raise UserError(
            f"--no-halve-evaluation: {folder.path} was finetuned on half of the evaluation split; remove the flag"
        )
    return halved if config.halve_evaluation is None else config.halve_evaluation


def _architecture(model: PreTrainedModel) -> Architecture:
    settings = model.config.get_text_config()
    heads, width = getattr(settings, "num_attention_heads", 0), settings.hidden_size  # none in state-space models
    return Architecture(
        parameters=model.num_parameters(),
        non_embedding_parameters=_non_embedding_parameters(model),
        num_layers=settings.num_hidden_layers,
        num_attention_heads=heads,
        head_dim=getattr(settings, "head_dim", None) or width // max(heads, 1),
        hidden_size=width,
    )


def _non_embedding_parameters(model: PreTrainedModel) -> int:
    """Count the parameters that are not in embeddings (of tokens or positions) nor in the output layer."""
    embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    left_out = {parameter for module in embeddings for parameter in module.parameters()}
    if model.get_output_embeddings() is not None:
        left_out |= set(model.get_output_embeddings().parameters())
    return sum(parameter.numel() for parameter in model.parameters() if parameter not in left_out)
