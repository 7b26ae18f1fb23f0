"""Provenance of a report: the files it was made from, their resolved configurations, and package versions."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pause_megatron.config.serialize import to_plain
from pause_megatron.report.collect import Collected
from pause_megatron.report.elements import Table, text_cells
from pause_megatron.report.labels import NOTHING, run_label, setting_label
from pause_megatron.report.measurements import TaskResult
from pause_megatron.versions import versions


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One input of the report."""

    heading: str
    source: str
    json: str
    """Resolved configuration."""


def configurations(collected: Collected, tasks: Sequence[TaskResult]) -> list[Configuration]:
    """Return the configuration of every run, then of every evaluation in the order of the tables."""
    found = [
        Configuration(
            heading=f"Pretraining {run_label(run, collected.runs)}",
            source=str(run.source),
            json=_json({"config": run.record.config, "dataset": run.record.dataset}),
        )
        for run in collected.runs
    ]
    for task in tasks:
        for measurement in task.measurements:
            label = f"{setting_label(measurement.setting, tasks)}, M_inf {measurement.setting.num_pauses_inf}"
            for result in measurement.results:
                record = result.record
                seed = "" if record.seed is None else f", seed {record.seed}"
                found.append(
                    Configuration(
                        heading=f"{task.name}: {label}{seed}",
                        source=str(result.source),
                        json=_json({"config": record.config, "finetuning": record.finetuning}),
                    )
                )
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
