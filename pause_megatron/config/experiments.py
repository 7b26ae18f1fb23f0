"""Configuration of ``pause-megatron demo`` and ``grid``, and the content of grid files.

:mod:`pause_megatron.config.study` has the content of their key ``pretrain``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.parallel import DeviceChoice
from pause_megatron.config.pausing import PausePlacement
from pause_megatron.config.study import Equality, Pretraining
from pause_megatron.errors import UserError

SAME: Literal["same"] = "same"
"""Value in ``num_pauses_inf``: as many pauses as in finetuning."""
Executor = Literal["local", "slurm"]


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run the complete chain at small size, from raw text to a report that compares the four variants.

    Takes eight to twelve minutes on two cores, or about two with --fast. The same command resumes an interrupted demo.
    """

    output: Path = Path("demo")
    """Folder for all files of the demo; the report is in its report/ folder."""
    c4: tuple[str, ...] = ()
    """C4 files (.json.gz) to train on, as paths or quoted globs. By default English text that comes with Python."""
    fast: bool = False
    """Only a few steps of each training, and no positive control: shows that the chain runs, not that models learn."""
    device: DeviceChoice = "cpu"
    """Device of the two models, which are too small to gain from GPUs; auto: as in the single commands."""


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Finetune and evaluate models on several tasks, with several numbers of pauses and seeds, as a grid file lists.
    With 'pretrain' in the file, also preprocess text, pretrain and export the models, and write the report.

    The same command resumes an interrupted grid, and makes only the results that are missing. They are files
    OUTPUT/evaluate/TASK/*.json, which 'pause-megatron report --evaluations' reads.
    """

    grid: str
    """Grid file (YAML), or the name of one that comes with the program: paper-130m, paper-1b, paper-1b-pauses,
    paper-1b-placement, rivals, rivals-tiny, demo-ablations, smoke."""
    output: Path
    """Folder for models, results, logs and, with 'pretrain' in the file, data and report."""
    models: tuple[str, ...] = ()
    """Models to finetune, each as NAME=FOLDER with a Hugging Face folder or the name of a model on the hub, e.g.
    pausept=hf/pausept-1b. By default those of the grid file; 'pretrain' in it is then ignored."""
    set: tuple[str, ...] = ()
    """Values that replace those of the grid file, each as KEY=VALUE in YAML, with dots between keys, e.g.
    'pretrain.text=c4/*.json.gz' pretrain.train.micro_batch_size=8."""
    data: Path | None = None
    """Folder with one folder of .jsonl files for each task, e.g. tasks with tasks/gsm8k. By default the data of the
    grid file."""
    list: bool = False
    """Print the jobs and their states, without running any."""
    dry_run: bool = False
    """Check the settings of every job, print the number of jobs of each stage and the plan of each pretraining (layout,
    memory, time, disk), and exit. Needs neither text nor data of tasks."""
    json: bool = False
    """Print the jobs of --list as a JSON array, with their names, stages, states, commands, needs and outputs."""
    jobs: int = 1
    """Jobs that run at the same time on this machine; they share its cores and its GPU."""
    executor: Executor = "local"
    """Run the jobs on this machine, or queue each as a Slurm job (needs pip install '.[slurm]')."""
    slurm: tuple[str, ...] = ()
    """Options of the Slurm jobs, each as KEY=VALUE with submitit's names, or STAGE.KEY=VALUE for the jobs of one stage,
    e.g. slurm_partition=gpu timeout_min=240 pretrain.nodes=8; requires --executor slurm."""

    def __post_init__(self) -> None:
        require_at_least(1, jobs=self.jobs)
        for flag, values in (("--models", self.models), ("--slurm", self.slurm), ("--set", self.set)):
            for value in values:
                name, equals, rest = value.partition("=")
                if not (name and equals and (rest or flag == "--set")):
                    form = "NAME=FOLDER" if flag == "--models" else "KEY=VALUE"
                    raise UserError(f"{flag} {value}: write it as {form}")
        if self.json and not self.list:
            raise UserError("--json: requires --list; add it, or remove --json")
        if self.slurm and self.executor != "slurm":
            raise UserError("--slurm: requires --executor slurm; add it, or remove --slurm")
        if self.executor == "slurm" and self.jobs > 1:
            raise UserError(f"--jobs {self.jobs}: not used with --executor slurm, which queues all jobs; remove it")


@dataclass(frozen=True, kw_only=True)
class GridTask:
    """One task of a grid."""

    task: str | None = None
    """Name or definition file of the task; None: the key of the task, which is only its name in file names if not."""
    data: Path | None = None
    """Folder of the task's .jsonl files; None: the source in the task's definition, e.g. the Hugging Face hub."""
    halve_evaluation: bool = False
    """Finetune on every second document of the evaluation split, and evaluate on the others."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Settings of :class:`FinetuneConfig` for this task, and ``preset``."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Settings of :class:`EvaluateConfig` for this task."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every model on every task with every number of pauses and every seed, and how to pretrain the models."""

    models: dict[str, Path] = field(default_factory=dict)
    """Name to exported Hugging Face folder."""
    pretrain: Pretraining | None = None
    """Models to pretrain."""
    equal: Equality | None = None
    """What models of one size must have seen equally much of. None: tokens, or also real tokens for given models."""
    tasks: dict[str, GridTask]
    """Name or file of a task's definition to its data and settings; once read, names in file names."""
    include_path: Path | None = None
    """Folder with further task definitions."""
    num_pauses_ft: tuple[int | str, ...]
    """Pauses in finetuning (tokens); 0: without pauses; a range such as 0..50 draws a number for each example."""
    num_pauses_inf: tuple[int | Literal["same"], ...] = (SAME,)
    """Pauses at inference (tokens) for every finetuned model; ``same``: as many as in finetuning."""
    pause_placements: tuple[PausePlacement, ...] = ("append",)
    """Positions of the pauses in finetuning and at inference; before-marker and after-marker need ``pause_marker`` in
    ``finetune``."""
    hint_weights: tuple[float, ...] = (0.0,)
    """Weights of the loss at appended pauses, whose labels are the hints of the records; 0: no loss at pauses. Models
    without pauses, or with other placements, are finetuned only without hints."""
    fillers: tuple[str, ...] = ()
    """Texts in place of the pauses of ``num_pauses_inf``, such as '.', for models finetuned without pauses."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of finetuning."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Settings of :class:`FinetuneConfig` for all tasks, and ``preset``."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Settings of :class:`EvaluateConfig` for all tasks."""
    report: dict[str, Any] | None = None
    """Settings of :class:`ReportConfig`. None: no report, unless the grid pretrains models."""
