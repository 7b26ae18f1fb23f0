"""A job: one command of a grid with its outputs, and the states of all jobs."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pause_megatron.config.preprocess import USED_BY_STRATEGY, InsertionConfig, PreprocessConfig
from pause_megatron.config.serialize import flags_of_mapping, to_flat
from pause_megatron.errors import UserError
from pause_megatron.experiments.job_outputs import Output, difference, is_made

LOGS = "logs"
State = Literal["done", "unfinished", "to do"]
Stage = Literal["tokenizer", "preprocess", "merge", "verify", "pretrain", "export", "finetune", "evaluate", "report"]
STAGES: dict[str, Stage] = {
    "tokenizer": "tokenizer",
    "preprocess": "preprocess",
    "merge-datasets": "merge",
    "verify-dataset": "verify",
    "pretrain": "pretrain",
    "convert-to-hf": "export",
    "finetune": "finetune",
    "evaluate": "evaluate",
    "report": "report",
}
"""Command to the name of its stage, in the order in which the stages follow each other."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command of a grid."""

    name: str
    """Unique in the grid, e.g. ``evaluate-gsm8k-pausept-ft10-seed0``."""
    command: str
    """Command of ``pause-megatron``."""
    settings: dict[str, Any]
    """Flags that differ from the preset and the defaults, by field name; for preprocessing without those of
    insertion."""
    preset: str | None = None
    outputs: tuple[Output, ...]
    """Configurations of one output each: of one dataset, model, or result for one number of pauses at inference."""
    log: Path
    """File for the command's output; each attempt overwrites it."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that must be done before."""
    model: str = ""
    """Key of the pretrained model that the job trains, finetunes or evaluates; empty for other jobs."""
    processes: int = 1
    """Ranks of the command."""

    @property
    def stage(self) -> Stage:
        """The stage of the chain that the job belongs to."""
        return STAGES[self.command]

    def missing(self) -> list[Output]:
        """Return the outputs that do not exist yet."""
        return [output for output in self.outputs if not is_made(output)]

    def arguments(self) -> list[str]:
        """Return the arguments that make the missing outputs, after the command; all outputs if none is missing."""
        wanted, settings = self.missing() or self.outputs, self.settings
        if self.stage == "evaluate":
            settings = {**settings, "num_pauses_inf": [to_flat(config)["num_pauses_inf"] for config in wanted]}
        elif self.stage == "preprocess":
            settings = {**settings, **_datasets([config for config in wanted if isinstance(config, PreprocessConfig)])}
        preset = ["--preset", self.preset] if self.preset else []
        return [self.command, *preset, *flags_of_mapping(settings, type(self.outputs[0]), self.command)]

    def words(self, *, starts_ranks: bool = True) -> list[str]:
        """Return the command as words after ``python``; with ``starts_ranks``, it starts its ranks on this machine."""
        ranks = ["--processes", str(self.processes)] if starts_ranks and self.processes > 1 else []
        return ["-m", "pause_megatron", *self.arguments(), *ranks]

    def command_line(self) -> str:
        """Return the command as a person would type it in the current folder."""
        _, _, *words = self.words()
        return shorten(shlex.join(["pause-megatron", *words]))

    def process(self, *, starts_ranks: bool = True) -> list[str]:
        """Return the command with its program."""
        return [sys.executable, *self.words(starts_ranks=starts_ranks)]


def _datasets(wanted: Sequence[PreprocessConfig]) -> dict[str, Any]:
    """Return the flags of one pass that writes all datasets of ``wanted``."""
    first, *others = wanted
    flags = {"output": first.output, "pauses": first.insertion.pauses, **_used(first.insertion)}
    also = [
        ",".join([other.insertion.pauses, *(f"{key.replace('_', '-')}={value}" for key, value in used)])
        + f":{other.output}"
        for other in others
        for used in [_used(other.insertion).items()]
    ]
    return {**flags, "also": also} if also else flags


def _used(insertion: InsertionConfig) -> dict[str, Any]:
    return {key: getattr(insertion, key) for key in USED_BY_STRATEGY[insertion.pauses]}


def shorten(text: str) -> str:
    """Make paths in ``text`` relative to the current folder."""
    return text.replace(f"{Path.cwd()}/", "")


def without_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return ``settings`` without those that are None or False."""
    return {name: value for name, value in settings.items() if value is not None and value is not False}


def job_states(jobs: Sequence[Job]) -> dict[str, State]:
    """Return name to state of every job.

    Raises :class:`UserError` if an output was made with another configuration; names its file and the setting.
    """
    states: dict[str, State] = {}
    differing = []
    for job in jobs:
        missing = job.missing()
        if job.stage == "report" and any(states[need] != "done" for need in job.needs):
            missing = list(job.outputs)  # a report of some of the results
        begun = len(missing) < len(job.outputs) or job.log.exists()
        states[job.name] = "done" if not missing else "unfinished" if begun else "to do"
        differing += [found for output in job.outputs if (found := difference(output))]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(f"{differing[0]}{more}; choose another --output, or remove what you want to make again")
    return states
