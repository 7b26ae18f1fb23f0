"""Where a report's numbers come from: the files, the resolved configurations and the versions that produced them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pause_megatron.report.compare import TaskResult
from pause_megatron.report.labels import NOTHING, run_label, setting_label
from pause_megatron.report.records import Collected
from pause_megatron.report.tables import Table, entries
from pause_megatron.versions import versions


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One input of the report: its file or folder, and its resolved configuration as JSON."""

    heading: str
    source: str
    json: str


def configurations(collected: Collected, tasks: Sequence[TaskResult]) -> list[Configuration]:
    """The configuration of every run, then of every evaluation in the order of the tables."""
    found = [
        Configuration(
            heading=f"Pretraining {run_label(run, collected.runs)}",
            source=str(run.source),
            json=_json({"config": run.config, "dataset": run.dataset}),
        )
        for run in collected.runs
    ]
    for task in tasks:
        for cell in task.cells:
            for evaluation in cell.evaluations:
                seed = "" if evaluation.seed is None else f", seed {evaluation.seed}"
                facts = {"config": evaluation.config, "finetuning": evaluation.finetuning}
                label = f"{setting_label(cell.setting, tasks)}, M_inf {cell.setting.num_pauses_inf}{seed}"
                found.append(
                    Configuration(
                        heading=f"{task.name}: {label}",
                        source=str(evaluation.source),
                        json=_json(facts),
                    )
                )
    return found


def versions_table(collected: Collected) -> Table:
    """Package versions (rows) of each stage (columns); several where inputs of one stage differ."""
    finetunings = (evaluation.finetuning or {} for evaluation in collected.evaluations)
    stages = {
        "Pretraining": _merged(run.versions for run in collected.runs),
        "Finetuning": _merged(finetuning.get("versions", {}) for finetuning in finetunings),
        "Evaluation": _merged(evaluation.versions for evaluation in collected.evaluations),
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
            entries(package, *(", ".join(sorted(found.get(package, {NOTHING}))) for found in stages.values()))
            for package in packages
        ),
    )


def _merged(found: Iterable[dict[str, str]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = {}
    for one in found:
        for package, version in one.items():
            merged.setdefault(package, set()).add(str(version))
    return merged


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
