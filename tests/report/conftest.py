"""One complete report, written once for all tests that look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pause_megatron.config.report import ReportConfig
from pause_megatron.report.write import write_report

from .inputs import ablations, sweep, variants, write_evaluations, write_finetuned, write_run


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
    finetuned = [
        write_finetuned(base / "finetune" / str(number), record)
        for number, record in enumerate(variants(seeds=(1, 2, 3)))
    ]
    config = ReportConfig(
        evaluations=tuple(write_evaluations(base / "evaluate", [*finetuned, *sweep(), *ablations()])),
        pretrain=(write_run(base / "stdpt"), write_run(base / "pausept", paused=True)),
        output=base / "report",
        title="Test <data> & nothing else",
    )
    write_report(config)
    return WrittenReport(config.output, config)
