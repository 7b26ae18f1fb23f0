"""Grouping of results into measurements by setting, and of measurements into tasks."""

from collections.abc import Iterable
from itertools import pairwise

from pause_megatron.errors import UserError
from pause_megatron.report.collect import EvaluationResult
from pause_megatron.report.measurements import Measurement, Setting, TaskResult

CHANCE_LEVELS = {"parity": 0.5, "lookup": 0.1, "piqa": 0.5, "hellaswag": 0.25}
"""Score of guessing in tasks with a fixed number of choices; a result file may state another."""


def group_results(results: Iterable[EvaluationResult]) -> tuple[TaskResult, ...]:
    """Group results into tasks, in alphabetical order, and measurements.

    Raises :class:`UserError` for results that cannot be in one report: the same seed twice, seeds of differently
    pretrained models, or one task under two metrics.
    """
    by_setting: dict[Setting, list[EvaluationResult]] = {}
    for result in results:
        by_setting.setdefault(Setting.of(result), []).append(result)
    by_task: dict[str, list[Measurement]] = {}
    for setting, group in by_setting.items():
        by_task.setdefault(setting.task, []).append(_measurement(setting, group))
    return tuple(_task_result(task, by_task[task]) for task in sorted(by_task))


def _measurement(setting: Setting, group: list[EvaluationResult]) -> Measurement:
    ordered = sorted(group, key=lambda result: -1 if result.record.seed is None else result.record.seed)
    for one, other in pairwise(ordered):
        if one.record.pretraining != other.record.pretraining:
            raise UserError(
                f"{one.source} and {other.source}: results of one variant, but of differently pretrained models;"
                " write a separate report for each model"
            )
        if one.record.seed == other.record.seed:
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
    stated = next((result.record.chance for result in results if result.record.chance is not None), None)
    return TaskResult(
        name=task,
        metric=first.record.primary_metric,
        measurements=tuple(sorted(measurements, key=lambda measurement: measurement.setting.order)),
        chance_level=CHANCE_LEVELS.get(task) if stated is None else stated,
    )
