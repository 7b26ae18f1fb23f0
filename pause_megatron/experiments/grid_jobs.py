"""A grid as a list of jobs: one for each finetuning, and one for all evaluations of a finetuned model.

An evaluation job loads the model once and writes one result file for each number of pauses at inference. Models with
another token in place of ``<pause>`` (a filler) are evaluated in one more job for each filler.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pause_megatron.config.downstream import NUMBER_FIELD, EvaluateConfig, FinetuneConfig
from pause_megatron.config.experiments import SAME, Grid
from pause_megatron.config.pausing import PausePlacement, pause_range
from pause_megatron.config.serialize import build, flags_of_mapping, flat_fields, to_flat, to_plain
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_file import PRESET
from pause_megatron.records.files import read_json
from pause_megatron.records.finetuning import FinetuneRecord

LOGS = "logs"
USUAL_PLACEMENT: PausePlacement = "append"
"""Placement that names of jobs and files leave out."""
State = Literal["done", "unfinished", "to do"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command of a grid."""

    name: str
    """Unique in the grid, e.g. ``evaluate-gsm8k-pausept-ft10-seed0``."""
    command: Literal["finetune", "evaluate"]
    settings: dict[str, Any]
    """Flags that differ from the preset and the defaults, by field name."""
    preset: str | None = None
    outputs: tuple[FinetuneConfig | EvaluateConfig, ...]
    """Configurations of one finetuned model, or of one result for each number of pauses at inference; the folder or
    file ``output`` of each exists only when it is complete."""
    log: Path
    """File for the command's output; each attempt overwrites it."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that must be done before."""

    def missing(self) -> list[FinetuneConfig | EvaluateConfig]:
        """Return the outputs that do not exist yet."""
        return [made for made in self.outputs if not made.output.exists()]

    def arguments(self) -> list[str]:
        """Return the arguments of ``pause-megatron`` that make the missing outputs; all outputs if none is missing."""
        settings = self.settings
        if self.command == "evaluate":
            wanted = [to_flat(config) for config in self.missing() or self.outputs]
            settings = {**settings, "num_pauses_inf": [config["num_pauses_inf"] for config in wanted]}
        preset = ["--preset", self.preset] if self.preset else []
        return [self.command, *preset, *flags_of_mapping(settings, type(self.outputs[0]), self.command)]

    def command_line(self) -> str:
        """Return the command as a person would type it in the current folder."""
        return shorten(shlex.join(["pause-megatron", *self.arguments()]))


def shorten(text: str) -> str:
    """Make paths in ``text`` relative to the current folder."""
    return text.replace(f"{Path.cwd()}/", "")


def grid_jobs(grid: Grid, output: Path, source: str) -> list[Job]:
    """Return every job of ``grid``, each after those it needs, and all jobs of one seed before the next seed.

    Raises :class:`UserError` for settings that a configuration refuses; ``source`` names the grid in the message.
    """
    jobs = []
    seeds, pauses = dict.fromkeys(grid.seeds), dict.fromkeys(grid.num_pauses_ft)
    for seed, task, model, num_pauses_ft in product(seeds, grid.tasks, grid.models, pauses):
        try:
            placements = dict.fromkeys(grid.pause_placements) if pause_range(num_pauses_ft)[1] else (USUAL_PLACEMENT,)
            for placement in placements:
                finetune = _finetune_job(grid, output, task, model, num_pauses_ft, placement, seed)
                jobs += [finetune, *_evaluate_jobs(grid, output, finetune)]
        except UserError as error:
            raise UserError(f"{source}: tasks: {task}: {error}") from error
    return jobs


def _finetune_job(
    grid: Grid, output: Path, task: str, model: str, num_pauses_ft: int | str, placement: PausePlacement, seed: int
) -> Job:
    name = f"{model}-ft{num_pauses_ft}{'' if placement == USUAL_PLACEMENT else f'-{placement}'}-seed{seed}"
    folder = output / "finetune" / task / name
    settings: dict[str, Any] = {"model": grid.models[model], "task": task, "data": grid.tasks[task].data}
    settings |= {"output": folder, "halve_evaluation": grid.tasks[task].halve_evaluation}
    settings |= {"num_pauses_ft": num_pauses_ft, "seed": seed}
    if placement != USUAL_PLACEMENT:
        settings["pause_placement"] = placement
    settings = {**_without_defaults(settings), **grid.finetune, **grid.tasks[task].finetune}
    preset = settings.pop(PRESET, None)
    if placement != "before-marker":
        settings.pop("pause_marker", None)
    config = build(FinetuneConfig, {**FinetuneConfig.PRESETS.get(preset, {}), **settings})
    return Job(
        name=f"finetune-{task}-{name}",
        command="finetune",
        settings=settings,
        preset=preset,
        outputs=(config,),
        log=output / LOGS / f"finetune-{task}-{name}.log",
    )


def _evaluate_jobs(grid: Grid, output: Path, finetune: Job) -> list[Job]:
    """Return the evaluations of a finetuned model; those with fillers only if it was finetuned without pauses."""
    [config] = finetune.outputs
    assert isinstance(config, FinetuneConfig)
    _, same = pause_range(config.pausing.num_pauses_ft)
    numbers = list(dict.fromkeys(same if number == SAME else number for number in grid.num_pauses_inf))
    jobs = [_evaluate_job(grid, output, finetune, config, numbers)]
    filled = [number for number in numbers if number]
    if not same and filled:
        jobs += [_evaluate_job(grid, output, finetune, config, filled, each) for each in dict.fromkeys(grid.fillers)]
    return jobs


def _evaluate_job(
    grid: Grid,
    output: Path,
    finetune: Job,
    finetuning: FinetuneConfig,
    numbers: Sequence[int],
    filler: str | None = None,
) -> Job:
    task = finetuning.task
    ending = "" if filler is None else f"-filler{quote(filler, safe='')}"
    model, _, seed = finetuning.output.name.rpartition("-")
    file = output / "evaluate" / task / f"{model}-inf{NUMBER_FIELD}{ending}-{seed}.json"
    settings = {"model": finetuning.output, "task": task, "data": finetuning.data, "output": file}
    settings |= {"num_pauses_inf": tuple(numbers), "filler": filler}
    settings = {**_without_defaults(settings), **grid.evaluate, **grid.tasks[task].evaluate}
    name = f"evaluate-{task}-{model}{ending}-{seed}"
    return Job(
        name=name,
        command="evaluate",
        settings=settings,
        outputs=tuple(build(EvaluateConfig, settings).each_number()),
        log=output / LOGS / f"{name}.log",
        needs=(finetune.name,),
    )


def _without_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None and value is not False}


def job_states(jobs: Sequence[Job]) -> dict[str, State]:
    """Return name to state of every job.

    Raises :class:`UserError` if an output was made with another configuration; names its file and the setting.
    """
    states: dict[str, State] = {}
    differing = []
    for job in jobs:
        missing = job.missing()
        begun = len(missing) < len(job.outputs) or job.log.exists()
        states[job.name] = "done" if not missing else "unfinished" if begun else "to do"
        differing += [found for made in job.outputs if made not in missing and (found := _difference(made))]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(f"{differing[0]}{more}; choose another --output, or remove what you want to make again")
    return states


def _difference(config: FinetuneConfig | EvaluateConfig) -> str | None:
    """Describe the first setting in which the existing output of ``config`` was made with another value."""
    # The folder of a grid may move, and the grid may continue on another device: neither is compared.
    file, free = config.output, {"output", "model", "device"}
    if isinstance(config, FinetuneConfig):
        file, free = config.output / FinetuneRecord.FILE, {"output", "device"}
    content = read_json(file)
    recorded = content.get("config") if isinstance(content, dict) else None
    if not isinstance(recorded, dict):
        raise UserError(f"{file}: holds no 'config'; remove it, this program did not write it")
    # Results of an older version lack newer settings, which had no effect: the default.
    defaults = {name: to_plain(field.default) for name, field in flat_fields(type(config)).items()}
    for key, value in to_flat(config).items():
        made_with = recorded.get(key, defaults[key])
        if key not in free and made_with != value:
            return f"{file}: was made with {key} {made_with}, but the grid has {value}"
    return None
