"""Record of a machine's checks: ``doctor.json``."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class CheckRecord:
    """Outcome of one check."""

    name: str
    outcome: Outcome
    message: str
    """Result in words: what was found, why the check was skipped, or the problem and its fix."""
    seconds: float
    """Wall time, with the start of its processes."""
    figures: dict[str, Any]
    """Measured figures by name."""
    log: tuple[str, ...] = ()
    """Last lines that a failed check printed."""


@dataclass(frozen=True, kw_only=True)
class DoctorRecord:
    """``doctor.json``: what ``pause-megatron doctor`` found."""

    FORMAT: ClassVar[str] = "pause_megatron/doctor/1"
    PRODUCER: ClassVar[str] = "pause-megatron doctor"

    format: str = FORMAT
    host: str
    """Host name."""
    gpus: int
    """GPUs used; 0 on a CPU."""
    checks: tuple[CheckRecord, ...]
    commit: str | None
    """Commit of this project's sources; None outside a git checkout."""
    versions: dict[str, str]
    """Package to installed version."""
    seconds: float
    """Wall time."""
