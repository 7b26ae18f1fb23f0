"""Configuration of ``pause-megatron report``."""

from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write report.html (one file that needs no other), report.md, report.json, and figures as PNG, SVG and CSV.

    For example: pause-megatron report --pretrain runs/* --evaluations grids/1b/evaluate --output report
    """

    output: Path
    """Folder of the report. An earlier report in it is replaced."""
    evaluations: tuple[Path, ...] = ()
    """Results of 'pause-megatron evaluate': JSON files, or folders of them, such as GRID/evaluate."""
    pretrain: tuple[Path, ...] = ()
    """Run folders of 'pause-megatron pretrain', with and without pauses."""
    diagnoses: tuple[Path, ...] = ()
    """Result files of 'pause-megatron diagnose'."""
    reproductions: tuple[Path, ...] = ()
    """Results of 'pause-megatron reproduce' (reproduction.json), shown in a section of their own, without a verdict."""
    title: str = "Does pausing help?"
    """Title of the report."""
    samples_per_task: int = 20
    """Test items per task that are shown with the answer of every variant (0: none)."""

    def __post_init__(self) -> None:
        if not self.evaluations and not self.pretrain and not self.diagnoses:
            raise UserError(
                "--evaluations, --pretrain, --diagnoses: one of them is required; give result files or run folders"
            )
        require_at_least(0, samples_per_task=self.samples_per_task)
