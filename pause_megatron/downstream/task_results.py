"""Results of the harness on a task, as result files hold them: metrics, samples, and the score of guessing."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pause_megatron.downstream.tasks import Task
from pause_megatron.errors import UserError
from pause_megatron.records.evaluation import Metric, Sample, TaskDefinitionRecord

_SHARES_OF_CHOICES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
"""Metrics of the harness that are the share of items whose best choice is correct."""


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    """Metrics and samples of one evaluation."""

    primary_metric: str
    metrics: dict[str, Metric]
    samples: tuple[Sample, ...]
    chance: float | None
    """Score of guessing; None if it is unknown."""
    higher_is_better: bool | None


def results_of(task: Task, results: dict[str, Any], num_pauses: int) -> TaskResults:
    """Convert what the harness's ``evaluate`` returns for ``task``.

    The primary metric is the first one of the definition with a score from 0 to 1 for each sample, else its first one.
    If the definition has several filters, samples and primary metric are those of the first.

    Raises :class:`UserError` if the task gives no metric.
    """
    metrics = metric_values(results["results"][task.name])
    found = results["samples"][task.name]
    filtered = found[0]["filter"]
    found = [sample for sample in found if sample["filter"] == filtered]
    several = len(task.harness._filters) > 1
    named = {name: f"{name},{filtered}" if several else name for name in (*task.metrics, *found[0]["metrics"])}
    candidates = [name for name in named if name in found[0] and named[name] in metrics]
    if not candidates:
        raise UserError(f"--task {task.name}: its definition gives no number for a sample; add a metric_list")
    primary = next((one for one in candidates if all(_is_score(sample.get(one)) for sample in found)), candidates[0])
    samples = tuple(
        Sample(
            prompt=sample["arguments"][0][0],
            pauses=num_pauses,
            output=_output(task, sample),
            target=task.target(sample["doc"]),
            correct=float(sample[primary]) if _is_score(sample.get(primary)) else None,
        )
        for sample in found
    )
    return TaskResults(
        primary_metric=named[primary],
        metrics=metrics,
        samples=samples,
        chance=_chance(task, primary, [sample["doc"] for sample in found]),
        higher_is_better=task.harness.higher_is_better().get(primary),
    )


def definition_record(task: Task, higher_is_better: bool | None) -> TaskDefinitionRecord | None:
    """Return the record of a definition that does not come with this project, else None."""
    found = task.definition
    if found.source == "shipped":
        return None
    return TaskDefinitionRecord(
        source=found.source,
        sha256=found.sha256,
        output_type=str(task.harness.OUTPUT_TYPE),
        higher_is_better=higher_is_better,
    )


def metric_values(results: dict[str, Any]) -> dict[str, Metric]:
    """Convert the harness's results, such as ``{"f1,stripped": 0.5, "f1_stderr,stripped": "N/A"}``.

    The name of a filter is left out, unless there are several. So is what is not a finite number.
    """
    found = {key: value for key, value in results.items() if "," in key}
    several = len({key.partition(",")[2] for key in found}) > 1
    values = {}
    for key, value in found.items():
        name, _, filtered = key.partition(",")
        if not name.endswith("_stderr") and _is_finite(value):
            error = found.get(f"{name}_stderr,{filtered}")
            stderr = float(error) if error is not None and _is_finite(error) else None
            values[key if several else name] = Metric(value=float(value), stderr=stderr)
    return values


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(value)
    except TypeError:
        return False


def _is_score(value: Any) -> bool:
    return value is not None and _is_finite(value) and 0 <= value <= 1


def _chance(task: Task, metric: str, documents: list[dict[str, Any]]) -> float | None:
    """Return the mean share of correct choices over ``documents``; None if ``metric`` is not a share of choices."""
    harness = task.harness
    if harness.OUTPUT_TYPE != "multiple_choice" or metric not in _SHARES_OF_CHOICES or harness.config.process_results:
        return None
    shares = []
    for document in documents:
        correct = None if harness.multiple_input else harness.doc_to_target(document)
        number = len(set(correct)) if isinstance(correct, list) else 1
        shares.append(number / len(harness.doc_to_choice(document)))
    return fmean(shares)


def _output(task: Task, sample: dict[str, Any]) -> str:
    """Return the generated text, or the choice that the model scores highest."""
    answers = sample["filtered_resps"]
    if task.harness.OUTPUT_TYPE == "generate_until":
        return str(answers[0])
    if task.harness.OUTPUT_TYPE == "multiple_choice":
        choices = task.harness.doc_to_choice(sample["doc"])
        scores = [float(score) for score, _ in answers[: len(choices)]]
        return str(choices[scores.index(max(scores))])
    _, is_greedy = answers[0]
    return task.target(sample["doc"]) if is_greedy else ""  # scoring a target does not show what else comes out
