"""Grouping of results into measurements by setting and pretrained model, and of measurements into tasks."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pause_megatron.errors import UserError
from pause_megatron.report.collect import EvaluationResult
from pause_megatron.report.measured_settings import Setting
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.pretrained_models import difference_besides_seed, seeds_of

CHANCE_LEVELS = {"parity": 0.5, "lookup": 0.1, "3sum": 0.5, "piqa": 0.5, "hellaswag": 0.25}
"""Score of guessing in tasks of this project with a fixed number of choices; a result file may state another."""


def group_results(results: Iterable[EvaluationResult]) -> tuple[TaskResult, ...]:
    """Group results into tasks, in alphabetical order, and measurements.

    Raises :class:`UserError` for results that cannot be in one report: the same seeds twice, models of one name that
    were pretrained differently, one task under two metrics, or two definitions of one task.
    """
    by_setting: dict[Setting, list[EvaluationResult]] = {}
    pairs = [(Setting.of(result), result) for result in results]
    variants = [variant for variant, _ in {(setting.model, one.record.pretrained_model) for setting, one in pairs}]
    for setting, result in pairs:
        name = result.record.pretrained_model if variants.count(setting.model) > 1 else ""
        by_setting.setdefault(replace(setting, pretrained=name), []).append(result)
    by_task: dict[str, list[Measurement]] = {}
    for setting, group in by_setting.items():
        by_task.setdefault(setting.task, []).append(_measurement(setting, group))
    return tuple(_task_result(task, by_task[task]) for task in sorted(by_task))


def _parameters(result: EvaluationResult) -> dict[str, Any] | None:
    """Parameters of generated data, without the hints, which only finetuning reads; None for other data."""
    generated = result.record.generated_task
    return {**generated.parameters, "hints": None} if generated else None


def _definition(result: EvaluationResult) -> str | None:
    """Hash of a definition that does not come with this project."""
    definition = result.record.definition
    return definition.sha256 if definition else None


def _measurement(setting: Setting, group: list[EvaluationResult]) -> Measurement:
    ordered = sorted(group, key=seeds_of)
    for one, other in pairwise(ordered):
        if difference := difference_besides_seed(one.record.pretraining, other.record.pretraining):
            raise UserError(
                f"{one.source} and {other.source}: their models have the name {one.record.pretrained_model} but differ"
                f" in {difference} of pretraining; give them other names (--model-name), or write two reports"
            )
        if seeds_of(one) == seeds_of(other):
            raise UserError(
                f"{one.source} and {other.source}: results of the same measurement ({setting.task}, {setting.model},"
                f" seed {one.record.seed}); give only one of them"
            )
    return Measurement(setting=setting, results=tuple(ordered))


def _task_result(task: str, measurements: list[Measurement]) -> TaskResult:
    results = [result for measurement in measurements for result in measurement.results]
    first = results[0]
    for result in results:
        if result.record.primary_metric != first.record.primary_metric:
            raise UserError(
                f"{first.source} and {result.source}: {task} is measured by {first.record.primary_metric} in one and by"
                f" {result.record.primary_metric} in the other; evaluate both by the same metric"
            )
    for result in results:
        if _definition(result) != _definition(first):
            raise UserError(
                f"{first.source} and {result.source}: their definitions of {task} differ; give one of them another"
                " name, or write two reports"
            )
    generated = [(result, parameters) for result in results if (parameters := _parameters(result)) is not None]
    for result, parameters in generated:
        if parameters != generated[0][1]:
            raise UserError(
                f"{generated[0][0].source} and {result.source}: their data of {task} were generated with other"
                " parameters; write two reports"
            )
    definition = first.record.definition
    known = CHANCE_LEVELS.get(first.record.task) if definition is None else None
    stated = next((result.record.chance for result in results if result.record.chance is not None), known)
    return TaskResult(
        name=task,
        metric=first.record.primary_metric,
        measurements=tuple(sorted(measurements, key=lambda measurement: measurement.setting.order)),
        chance_level=stated,
        stated_direction=definition.higher_is_better if definition else None,
        hides_answers=first.record.task.startswith("lambada")
        or (definition is not None and definition.output_type == "loglikelihood"),
    )
