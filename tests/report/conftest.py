"""One report of everything, written once for the tests that look at it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pause_megatron.config.report import ReportConfig
from pause_megatron.report.write import write_report

from .inputs import write_ablations, write_finetuned, write_run, write_sweep, write_variants


@dataclass(frozen=True)
class WrittenReport:
    folder: Path
    config: ReportConfig

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    """Four variants on two tasks with three seeds, a sweep of M_inf, finetuning curves, two pretraining runs."""
    base = tmp_path_factory.mktemp("full")
    evaluations = write_variants(base / "evaluate", seeds=(1, 2, 3))
    for path in evaluations:
        values = json.loads(path.read_text())
        write_finetuned(base / "finetune" / path.parent.name / path.stem, values)
        path.write_text(json.dumps(values))
    config = ReportConfig(
        evaluations=(*evaluations, *write_sweep(base / "sweep"), *write_ablations(base / "ablations")),
        pretrain=(write_run(base / "stdpt"), write_run(base / "pausept", paused=True)),
        output=base / "report",
        title="Test <data> & nothing else",
    )
    write_report(config)
    return WrittenReport(config.output, config)
