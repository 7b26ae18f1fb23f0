"""Provenance of a report: the files it was made from, their resolved configurations, and package versions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pause_megatron.config.serialize import to_plain
from pause_megatron.report.collect import Collected, EvaluationResult
from pause_megatron.report.elements import Table, text_cells
from pause_megatron.report.labels import NOTHING, listed, run_label, setting_label
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.versions import versions


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A pretraining run, or a measurement with the results of its seeds."""

    heading: str
    source: str
    json: str
    """Resolved configuration; that of the first seed for a measurement."""
    others: tuple[tuple[str, str], ...] = ()
    """For each further seed, its file and its values that differ from those of the first, as JSON."""


def configurations(collected: Collected, tasks: Sequence[TaskResult]) -> list[Configuration]:
    """Return the configuration of every run, then of every measurement in the order of the tables.

    A page of 2,000 results repeats no value that all seeds of a measurement share, so that it stays small.
    """
    found = [
        Configuration(
            heading=f"Pretraining {run_label(run, collected.runs)}",
            source=str(run.source),
            json=_json({"config": run.record.config, "dataset": run.record.dataset}),
        )
        for run in collected.runs
    ]
    return found + [_of_measurement(one, task, tasks) for task in tasks for one in task.measurements]


def _of_measurement(measurement: Measurement, task: TaskResult, tasks: Sequence[TaskResult]) -> Configuration:
    label = f"{setting_label(measurement.setting, tasks)}, M_inf {measurement.setting.num_pauses_inf}"
    seeds = [str(result.record.seed) for result in measurement.results if result.record.seed is not None]
    names = f", {'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)}" if seeds else ""
    first, *others = measurement.results
    values = _values(first)
    return Configuration(
        heading=f"{task.name}: {label}{names}",
        source=str(first.source),
        json=_json(values),
        others=tuple((str(other.source), _json(differing(_values(other), values))) for other in others),
    )


def _values(result: EvaluationResult) -> dict[str, Any]:
    record = result.record
    parts = {"config": record.config, "finetuning": record.finetuning, "generated_task": record.generated_task}
    values = to_plain({name: part for name, part in parts.items() if part is not None or name == "finetuning"})
    assert isinstance(values, dict)
    return values


def differing(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``values`` that ``base`` does not have, and null for keys that only ``base`` has."""
    found: dict[str, Any] = dict.fromkeys(base.keys() - values.keys())
    for key, value in values.items():
        other = base.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := differing(value, other):
                found[key] = inner
        elif key not in base or value != other:
            found[key] = value
    return found


def versions_table(collected: Collected) -> Table:
    """Tabulate package versions (rows) of each stage (columns), all of them if the inputs of a stage differ."""
    records = [result.record for result in collected.evaluations]
    stages = {
        "Pretraining": _merged(run.record.versions for run in collected.runs),
        "Finetuning": _merged(record.finetuning.versions for record in records if record.finetuning),
        "Evaluation": _merged(record.versions for record in records),
        "This report": _merged([versions()]),
    }
    stages = {stage: found for stage, found in stages.items() if found}
    packages = sorted({package for found in stages.values() for package in found})
    return Table(
        name="versions",
        caption="Versions that produced the inputs and this report.",
        columns=("Package", *stages),
        words=tuple(stages),
        rows=tuple(
            text_cells(package, *(", ".join(sorted(found.get(package, {NOTHING}))) for found in stages.values()))
            for package in packages
        ),
    )


def _merged(found: Iterable[dict[str, str]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = {}
    for one in found:
        for package, version in one.items():
            merged.setdefault(package, set()).add(version)
    return merged


def _json(value: object) -> str:
    return json.dumps(to_plain(value), indent=2, ensure_ascii=False)
