"""Configuration of ``pause-megatron grid``: the command's flags, and what a grid file says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.pausing import PausePlacement
from pause_megatron.errors import UserError

SAME: Literal["same"] = "same"
"""In ``num_pauses_inf``: as many pauses as in finetuning."""
Executor = Literal["local", "slurm"]


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run the whole chain at small size, from raw text to a report on whether pausing helped.

    Six to nine minutes on two cores, about one with --fast. Called again after an interruption it continues where it
    stopped.
    """

    output: Path = Path("demo")
    """Folder for everything the demo makes; the report ends up in its report/ folder."""
    c4: tuple[str, ...] = ()
    """C4 files (.json.gz), as paths or quoted globs, to train on; by default English text that ships with Python."""
    fast: bool = False
    """A few steps of everything: shows that the chain runs, not what it can learn."""


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Finetune and evaluate many models on many tasks with many numbers of pauses, as a grid file declares.

    Called again it does what is missing. The files of the results are OUTPUT/evaluate/TASK/*.json, for
    'pause-megatron report'.
    """

    grid: str
    """Grid file (YAML), or the name of one that comes with the program: paper-130m, paper-1b, paper-1b-pauses,
    paper-1b-placement, demo-ablations, smoke."""
    output: Path
    """Folder for everything the grid makes."""
    models: tuple[str, ...] = ()
    """Models to start from, each NAME=FOLDER of an exported Hugging Face folder; instead of the file's."""
    data: Path | None = None
    """Folder with one folder of .jsonl files for each task; instead of the file's data."""
    list: bool = False
    """Print the jobs and their state, and run nothing."""
    jobs: int = 1
    """Jobs that run at a time on this machine; they share its cores and its GPU."""
    fork: bool = True
    """Import the libraries once and run every job of this machine as a fork; --no-fork starts each anew."""
    executor: Executor = "local"
    """Run the jobs on this machine, or queue one Slurm job for each (pip install '.[slurm]')."""
    slurm: tuple[str, ...] = ()
    """Options of the Slurm jobs, each KEY=VALUE in submitit's words, such as slurm_partition=gpu timeout_min=240."""

    def __post_init__(self) -> None:
        require_at_least(1, jobs=self.jobs)
        for flag, values in (("--models", self.models), ("--slurm", self.slurm)):
            for value in values:
                name, equals, rest = value.partition("=")
                if not (name and equals and rest):
                    form = "NAME=FOLDER" if flag == "--models" else "KEY=VALUE"
                    raise UserError(f"{flag} {value}: expected {form}")
        if self.slurm and self.executor != "slurm":
            raise UserError("--slurm: options of Slurm jobs, which only --executor slurm makes")
        if self.executor == "slurm" and self.jobs > 1:
            raise UserError(f"--jobs {self.jobs}: Slurm decides how many jobs run at a time; leave it out")


@dataclass(frozen=True, kw_only=True)
class GridTask:
    """One task of a grid."""

    data: Path | None = None
    """Folder with the task's .jsonl files; without one the data come from where the task's definition says."""
    halve_evaluation: bool = False
    """Finetune on every second document of the evaluation split and evaluate on the others."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`FinetuneConfig` for this task, and ``preset``."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`EvaluateConfig` for this task."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid: every model on every task with every number of pauses and every seed."""

    models: dict[str, Path]
    """Name to exported Hugging Face folder."""
    tasks: dict[str, GridTask]
    """Name of a task definition to what the grid says of it."""
    num_pauses_ft: tuple[int | str, ...]
    """Pauses in finetuning (tokens); 0 is finetuning the standard way, a range such as 0..50 draws for each example."""
    num_pauses_inf: tuple[int | Literal["same"], ...] = (SAME,)
    """Pauses at inference (tokens), for every finetuned model; ``same`` is as many as in finetuning."""
    pause_placements: tuple[PausePlacement, ...] = ("append",)
    """Where the pauses stand in finetuning and at inference; before-marker needs ``pause_marker`` in ``finetune``."""
    fillers: tuple[str, ...] = ()
    """Tokens to evaluate models finetuned without pauses with, in the place of the pauses of ``num_pauses_inf``."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of finetuning."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`FinetuneConfig` for all tasks, and ``preset``."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`EvaluateConfig` for all tasks."""
