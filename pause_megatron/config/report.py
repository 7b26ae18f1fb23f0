"""Configuration of ``pause-megatron report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write report.html (one file that needs nothing else), report.md, report.json, and the figures as PNG and SVG with
    their data as CSV.
    """

    output: Path
    """Folder of the report; an earlier report there is replaced."""
    evaluations: tuple[Path, ...] = ()
    """Results written by 'pause-megatron evaluate': JSON files, or folders of them such as GRID/evaluate."""
    pretrain: tuple[Path, ...] = ()
    """Run folders of 'pause-megatron pretrain', standard and paused."""
    title: str = "Does pausing help?"
    """Title of the report."""
    samples_per_task: int = 20
    """Questions shown for each task, with every variant's answer."""

    def __post_init__(self) -> None:
        if not self.evaluations and not self.pretrain:
            raise UserError("nothing to report on: give --evaluations FILE... or --pretrain RUN... or both")
        require_at_least(0, samples_per_task=self.samples_per_task)
