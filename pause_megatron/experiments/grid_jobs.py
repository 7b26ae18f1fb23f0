"""A grid as a list of jobs: data, pretraining and exports of its models, finetunings, evaluations and the report.

An evaluation job loads the model once and writes one result file for each number of pauses at inference. Models with
another text in place of ``<pause>`` (a filler) are evaluated in one more job for each filler.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pause_megatron.config.downstream import NUMBER_FIELD, EvaluateConfig, FinetuneConfig
from pause_megatron.config.experiments import SAME, Grid
from pause_megatron.config.pausing import MARKED_PLACEMENTS, PausePlacement, pause_range
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.report import ReportConfig
from pause_megatron.config.serialize import build
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_settings import PRESET
from pause_megatron.experiments.job import LOGS, Job, without_defaults
from pause_megatron.experiments.study_jobs import PretrainedModel, study_jobs

USUAL_PLACEMENT: PausePlacement = "append"
"""Placement that names of jobs and files leave out."""
_LONGEST_FILLER = 32
"""Characters of a filler in names of jobs and files."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finetuning of a grid."""

    task: str
    model: PretrainedModel
    num_pauses_ft: int | str
    placement: PausePlacement
    hint_weight: float
    seed: int

    @property
    def name(self) -> str:
        """Unique among the finetunings of the task."""
        placed = "" if self.placement == USUAL_PLACEMENT else f"-{self.placement}"
        hinted = f"-hint{self.hint_weight:g}" if self.hint_weight else ""
        return f"{self.model.key}-ft{self.num_pauses_ft}{placed}{hinted}-seed{self.seed}"


def grid_jobs(grid: Grid, output: Path, source: str) -> list[Job]:
    """Return every job of ``grid``, each after those it needs, and all jobs of one seed before the next seed.

    Raises :class:`UserError` for settings that a configuration refuses; ``source`` names the grid in the message.
    """
    models = [PretrainedModel(key=name, name=name, folder=folder) for name, folder in grid.models.items()]
    jobs: list[Job] = []
    if grid.pretrain:
        study = study_jobs(grid.pretrain, output, f"{source}: pretrain", equal=grid.equal or "tokens")
        jobs += study.jobs
        models += study.models
    seeds, pauses = dict.fromkeys(grid.seeds), dict.fromkeys(grid.num_pauses_ft)
    for seed, task, model, num_pauses_ft in product(seeds, grid.tasks, models, pauses):
        try:
            for placement, weight in _pausings(grid, num_pauses_ft):
                cell = Cell(
                    task=task,
                    model=model,
                    num_pauses_ft=num_pauses_ft,
                    placement=placement,
                    hint_weight=weight,
                    seed=seed,
                )
                finetune = _finetune_job(grid, output, cell)
                jobs += [finetune, *_evaluate_jobs(grid, output, finetune, task)]
        except UserError as error:
            raise UserError(f"{source}: tasks: {task}: {error}") from error
    if grid.pretrain or grid.report is not None:
        sizes = list(grid.pretrain.sizes) if grid.pretrain else []
        if len(sizes) < 2:
            return [*jobs, _report_job(grid, output, jobs)]
        of_size = {size: {model.key for model in models if model.size in (size, None)} for size in sizes}
        jobs += [_report_job(grid, output, [*jobs], size=size, keys=of_size[size]) for size in sizes]
    return jobs


def _pausings(grid: Grid, num_pauses_ft: int | str) -> list[tuple[PausePlacement, float]]:
    """Return each placement and hint weight; without pauses only the usual ones, and hints only at appended pauses."""
    if not pause_range(num_pauses_ft)[1]:
        return [(USUAL_PLACEMENT, 0.0)]
    weights = dict.fromkeys(grid.hint_weights)
    pairs = [
        (placement, weight if placement == "append" else 0.0)
        for placement, weight in product(grid.pause_placements, weights)
    ]
    return list(dict.fromkeys(pairs))


def _finetune_job(grid: Grid, output: Path, cell: Cell) -> Job:
    task, model, placement = cell.task, cell.model, cell.placement
    settings: dict[str, Any] = {"model": model.folder, **_task_settings(grid, task)}
    settings |= {"output": output / "finetune" / task / cell.name, "model_name": model.name}
    settings |= {"halve_evaluation": grid.tasks[task].halve_evaluation}
    settings |= {"num_pauses_ft": cell.num_pauses_ft, "seed": cell.seed}
    settings["pause_placement"] = placement  # always: the default depends on the model's pretraining
    if cell.hint_weight:
        settings["hint_weight"] = cell.hint_weight
    settings = {**without_defaults(settings), **grid.finetune, **grid.tasks[task].finetune}
    preset = settings.pop(PRESET, None)
    if placement not in MARKED_PLACEMENTS:
        settings.pop("pause_marker", None)
    config = build(FinetuneConfig, {**FinetuneConfig.PRESETS.get(preset, {}), **settings})
    return Job(
        name=f"finetune-{task}-{cell.name}",
        command="finetune",
        settings=settings,
        preset=preset,
        outputs=(config,),
        log=output / LOGS / f"finetune-{task}-{cell.name}.log",
        needs=model.needs,
        model=model.key,
    )


def _task_settings(grid: Grid, task: str) -> dict[str, Any]:
    chosen = grid.tasks[task]
    return {"task": chosen.task or task, "include_path": grid.include_path, "data": chosen.data}


def _evaluate_jobs(grid: Grid, output: Path, finetune: Job, task: str) -> list[Job]:
    """Return the evaluations of a finetuned model; those with fillers only if it was finetuned without pauses."""
    [config] = finetune.outputs
    assert isinstance(config, FinetuneConfig)
    _, most = pause_range(finetune.settings["num_pauses_ft"])
    same = 0 if config.pausing.pause_placement == "before-unlikely" else most  # which has no pauses at inference
    numbers = list(dict.fromkeys(same if number == SAME else number for number in grid.num_pauses_inf))
    jobs = [_evaluate_job(grid, output, finetune, task, numbers)]
    filled = [number for number in numbers if number]
    if not most and filled:
        jobs += [_evaluate_job(grid, output, finetune, task, filled, each) for each in dict.fromkeys(grid.fillers)]
    return jobs


def _evaluate_job(
    grid: Grid, output: Path, finetune: Job, task: str, numbers: Sequence[int], filler: str | None = None
) -> Job:
    [finetuning] = finetune.outputs
    assert isinstance(finetuning, FinetuneConfig)
    ending = "" if filler is None else f"-filler{_file_part(filler)}"
    model, _, seed = finetuning.output.name.rpartition("-")
    file = output / "evaluate" / task / f"{model}-inf{NUMBER_FIELD}{ending}-{seed}.json"
    settings: dict[str, Any] = {"model": finetuning.output, **_task_settings(grid, task), "output": file}
    settings |= {"num_pauses_inf": tuple(numbers), "filler": filler}
    settings = {**without_defaults(settings), **grid.evaluate, **grid.tasks[task].evaluate}
    name = f"evaluate-{task}-{model}{ending}-{seed}"
    return Job(
        name=name,
        command="evaluate",
        settings=settings,
        outputs=tuple(build(EvaluateConfig, settings).each_number()),
        log=output / LOGS / f"{name}.log",
        needs=(finetune.name,),
        model=finetune.model,
    )


def _file_part(filler: str) -> str:
    """Return ``filler`` as part of a file name; a long one is cut, and its hash tells it from others."""
    quoted = quote(filler, safe="")
    if len(quoted) <= _LONGEST_FILLER:
        return quoted
    return f"{quoted[:_LONGEST_FILLER]}-{hashlib.sha256(filler.encode()).hexdigest()[:8]}"


def _report_job(
    grid: Grid, output: Path, jobs: Sequence[Job], *, size: str | None = None, keys: Collection[str] = ()
) -> Job:
    """Return the report on all results, or on those of the models ``keys`` of one size: sizes are not compared."""
    name, folder = ("report", output / "report") if size is None else (f"report-{size}", output / "report" / size)
    if size is not None:
        jobs = [job for job in jobs if job.model in keys]
    evaluations = [job for job in jobs if job.stage == "evaluate"]
    configs = [config for job in jobs for config in job.outputs]
    runs = tuple(config.output for config in configs if isinstance(config, PretrainConfig))
    files = tuple(config.output for config in configs if isinstance(config, EvaluateConfig))
    settings: dict[str, Any] = {"evaluations": (output / "evaluate",) if size is None else files, "output": folder}
    settings |= ({"pretrain": runs} if runs else {}) | (grid.report or {})
    return Job(
        name=name,
        command="report",
        settings=settings,
        outputs=(build(ReportConfig, settings),),
        log=output / LOGS / f"{name}.log",
        needs=tuple(job.name for job in evaluations),
    )
