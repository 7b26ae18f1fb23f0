"""A grid as a list of jobs: each a command line, what it leaves behind, and the jobs it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.experiments import SAME, Grid
from pause_megatron.config.pausing import PausePlacement, pause_range
from pause_megatron.config.serialize import build, flags_of_mapping, flat_fields, to_flat, to_plain
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_file import PRESET
from pause_megatron.experiments.steps import Step

LOGS = "logs"
USUAL_PLACEMENT: PausePlacement = "append"
"""What a job's name does not mention: the usual place of pauses."""
State = Literal["done", "unfinished", "to do"]


@dataclass(frozen=True, kw_only=True)
class Job(Step):
    """One command of a grid."""

    action: Sequence[str]
    """Its command line, without the interpreter."""
    config: FinetuneConfig | EvaluateConfig
    """What the command line says."""
    record: Path
    """The file of the product that holds the configuration it was made with."""
    placed: tuple[str, ...]
    """Fields of ``config`` that only say where in the grid's folder something lies."""
    log: Path
    """File of everything it prints."""
    needs: tuple[str, ...] = ()
    """Names of the jobs whose products it reads."""


def grid_jobs(grid: Grid, output: Path, source: str) -> list[Job]:
    """Every job of ``grid``, each after those it needs; one seed of everything comes before the next seed.

    Raises :class:`UserError` for settings that a configuration refuses; ``source`` names the grid in it.
    """
    jobs = []
    cells = product(grid.seeds, grid.tasks, grid.models, dict.fromkeys(grid.num_pauses_ft))
    for seed, task, model, num_pauses_ft in dict.fromkeys(cells):
        try:
            for placement in (
                dict.fromkeys(grid.pause_placements) if pause_range(num_pauses_ft)[1] else (USUAL_PLACEMENT,)
            ):
                finetune = _finetune_job(grid, output, task, model, num_pauses_ft, placement, seed)
                jobs += [finetune, *_evaluate_jobs(grid, output, finetune)]
        except UserError as error:
            raise UserError(f"{source}: tasks: {task}: {error}") from error
    return jobs


def _finetune_job(
    grid: Grid, output: Path, task: str, model: str, num_pauses_ft: int | str, placement: PausePlacement, seed: int
) -> Job:
    placed_so = "" if placement == USUAL_PLACEMENT else f"-{placement}"
    name = f"{model}-ft{num_pauses_ft}{placed_so}-seed{seed}"
    described = grid.tasks[task]
    settings = {**grid.finetune, **described.finetune}
    preset = settings.pop(PRESET, None)
    if placement != "before-marker":
        settings.pop("pause_marker", None)
    folder = output / "finetune" / task / name
    placed: dict[str, Any] = {"model": grid.models[model], "task": task, "data": described.data, "output": folder}
    placed |= {"halve_evaluation": described.halve_evaluation, "num_pauses_ft": num_pauses_ft, "seed": seed}
    if placement != USUAL_PLACEMENT:
        placed["pause_placement"] = placement
    return Job(
        name=f"finetune-{task}-{name}",
        action=_command("finetune", FinetuneConfig, {**_given(placed), **settings}, preset),
        product=folder,
        config=build(FinetuneConfig, {**FinetuneConfig.PRESETS.get(preset, {}), **settings, **placed}),
        record=folder / "finetune.json",
        placed=("output",),
        log=output / LOGS / f"finetune-{task}-{name}.log",
    )


def _evaluate_jobs(grid: Grid, output: Path, finetune: Job) -> list[Job]:
    """The evaluations of a finetuned model, each number of pauses at inference once."""
    config = finetune.config
    assert isinstance(config, FinetuneConfig)
    _, same = pause_range(config.pausing.num_pauses_ft)
    numbers = list(dict.fromkeys(same if number == SAME else number for number in grid.num_pauses_inf))
    jobs = [_evaluate_job(grid, output, finetune, config, number) for number in numbers]
    if not same:
        fillers = product(dict.fromkeys(grid.fillers), filter(None, numbers))
        jobs += [_evaluate_job(grid, output, finetune, config, number, filler) for filler, number in fillers]
    return jobs


def _evaluate_job(
    grid: Grid, output: Path, finetune: Job, finetuning: FinetuneConfig, num_pauses_inf: int, filler: str | None = None
) -> Job:
    task = finetuning.task
    filled = "" if filler is None else f"-filler{quote(filler, safe='')}"
    model, _, seed = finetune.product.name.rpartition("-")
    name = f"{model}-inf{num_pauses_inf}{filled}-{seed}"
    settings = {**grid.evaluate, **grid.tasks[task].evaluate}
    file = output / "evaluate" / task / f"{name}.json"
    placed: dict[str, Any] = {"model": finetune.product, "task": task, "data": finetuning.data, "output": file}
    placed |= {"num_pauses_inf": num_pauses_inf, "filler": filler}
    return Job(
        name=f"evaluate-{task}-{name}",
        action=_command("evaluate", EvaluateConfig, {**_given(placed), **settings}),
        product=file,
        config=build(EvaluateConfig, {**settings, **placed}),
        record=file,
        placed=("output", "model"),
        log=output / LOGS / f"evaluate-{task}-{name}.log",
        needs=(finetune.name,),
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` without those that need no flag."""
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _command(name: str, config_class: type, settings: dict[str, Any], preset: str | None = None) -> list[str]:
    flags = ["--preset", preset] if preset else []
    return ["-m", "pause_megatron", name, *flags, *flags_of_mapping(settings, config_class, name)]


def job_states(jobs: Sequence[Job]) -> dict[str, State]:
    """Name to state of every job.

    Raises :class:`UserError` when a product was made with another configuration, naming its file and what differs.
    """
    states: dict[str, State] = {}
    differing = []
    for job in jobs:
        if not job.product.exists():
            states[job.name] = "unfinished" if job.log.exists() else "to do"
            continue
        states[job.name] = "done"
        difference = _difference(job)
        if difference:
            differing.append(f"{job.record} was made with {difference}")
    if differing:
        more = f" (and so for {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(f"{differing[0]}{more}; name another --output, or remove what is to be made anew")
    return states


def _difference(job: Job) -> str | None:
    """The first setting in which the product is not what the job would make, in words."""
    try:
        recorded = json.loads(job.record.read_text(encoding="utf-8")).get("config")
    except (OSError, ValueError) as error:
        raise UserError(f"{job.record}: not what 'pause-megatron {job.action[2]}' writes: {error}") from error
    if not isinstance(recorded, dict):
        raise UserError(f"{job.record}: not what 'pause-megatron {job.action[2]}' writes: it holds no 'config'")
    # A setting that was not known yet when the product was made had what is now its default.
    defaults = {name: to_plain(field.default) for name, field in flat_fields(type(job.config)).items()}
    for key, value in to_flat(job.config).items():
        made_with = recorded.get(key, defaults[key])
        if key not in job.placed and made_with != value:
            return f"{key} {made_with}, the grid says {value}"
    return None
