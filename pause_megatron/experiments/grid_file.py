"""Reads a grid file and checks every key before anything runs."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.experiments import Grid, GridConfig, GridTask
from pause_megatron.config.report import ReportConfig
from pause_megatron.config.serialize import read_settings
from pause_megatron.config.task_definitions import find_definition, is_file
from pause_megatron.downstream.hub_models import find_model, is_hub_name
from pause_megatron.errors import UserError, one_line
from pause_megatron.experiments.grid_settings import (
    converted_settings,
    field_names,
    read_path,
    require_known,
    require_name,
)
from pause_megatron.experiments.study_file import read_pretraining

GRIDS = Path(__file__).parent / "grids"
EXTENDS = "extends"
"""Key that names another grid file, whose keys a file replaces."""
OTHER_NAMES = {"lambada": ("lambada_openai",), "web_questions": ("webqs",), "natural_questions": ("nq_open",)}
"""Task to other names of its folder in ``--data``: those of the data sets."""


def read_grid(config: GridConfig) -> Grid:
    """Read the grid that ``config`` names; ``--set``, ``--models`` and ``--data`` replace what the file has.

    All paths become absolute; the name of a model on the hub stays. Raises :class:`UserError` that names the file and
    the key if something is missing, unknown or of the wrong type.
    """
    preset = config.grid in _presets()
    source = f"--grid {config.grid}"
    values = _read_file(config.grid, source)
    for assignment in config.set:
        set_value(values, assignment)
    if config.models:
        names = [model.partition("=")[0] for model in config.models]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"--models {twice}: is given twice; give each model a name of its own")
        values["models"] = dict(model.split("=", 1) for model in config.models)
        values.pop("pretrain", None)
    if not values.get("models") and not values.get("pretrain"):
        raise UserError(
            f"{source}: 'models' is empty; add a model or 'pretrain' to the file, or give --models NAME=FOLDER"
        )
    if preset and config.data is None:
        raise UserError(f"{source}: needs data; give --data FOLDER, with one folder of .jsonl files for each task")
    grid = _convert_grid(values, source)
    for name in grid.models:
        require_name(name, f"{source}: models")
    tasks = {name: _with_data(name, task, config, source) for name, task in grid.tasks.items()}
    on_hub = {name: Path(text) for name, text in (values.get("models") or {}).items() if is_hub_name(Path(text))}
    return dataclasses.replace(grid, tasks=tasks, models={**grid.models, **on_hub})


def _presets() -> list[str]:
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def _read_file(name: str, source: str) -> dict[str, Any]:
    """Read a grid file, or the one that comes with the program under ``name``, on top of the file that it extends."""
    path = GRIDS / f"{name}.yaml" if name in _presets() else Path(name)
    values = read_settings(path, source, instead=f"; give a YAML file, or one of {', '.join(_presets())}")
    extended = values.pop(EXTENDS, None)
    if extended is None:
        return values
    if extended not in _presets() or extended == name:
        require_known([extended], [preset for preset in _presets() if preset != name], f"{source}: {EXTENDS}", "grid")
    return {**_read_file(extended, f"{source}: {EXTENDS} {extended}"), **values}


def set_value(values: dict[str, Any], assignment: str) -> None:
    """Set ``KEY.KEY=VALUE`` in ``values``."""
    path, _, text = assignment.partition("=")
    *sections, last = path.split(".")
    for section in sections:
        values[section] = {} if values.get(section) is None else values[section]
        if not isinstance(values[section], dict):
            raise UserError(
                f"--set {assignment}: '{section}' holds a {type(values[section]).__name__}; set it directly"
            )
        values[section] = values = dict(values[section])
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {assignment}: not YAML ({one_line(error)}); quote the value") from error


def check_folders(grid: Grid, source: str) -> None:
    """Raise :class:`UserError` if a model or the folder of a task does not exist; models of the hub are downloaded."""
    for name, model in grid.models.items():
        try:
            folder = find_model(model)
        except UserError as error:
            raise UserError(f"{source}: models: {name}: {error}") from error
        if not (folder / "config.json").is_file():
            raise UserError(f"{source}: models: {name}: {model} has no config.json; give a Hugging Face model")
    for name, task in grid.tasks.items():
        if task.data is not None and not task.data.is_dir():
            raise UserError(f"{source}: tasks: {name}: data: {task.data} does not exist; correct the path")


def _convert_grid(values: dict[str, Any], source: str) -> Grid:
    require_known(values, field_names(Grid), source)
    tasks = values.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise UserError(f"{source}: 'tasks' is empty; give each task and its data folder, such as 'gsm8k: tasks/gsm8k'")
    if not values.get("num_pauses_ft"):
        raise UserError(f"{source}: 'num_pauses_ft' is missing; give a list of numbers, such as [0, 10]")
    written = {name: task if isinstance(task, dict) else {"data": task} for name, task in tasks.items()}
    for name, task in written.items():
        require_known(task, field_names(GridTask), f"{source}: tasks: {name}")
    inference = values.get("num_pauses_inf", ["same"])
    values = {**values, "tasks": written, "num_pauses_inf": inference if isinstance(inference, list) else [inference]}
    pretrain = values.pop("pretrain", None)
    try:
        grid = msgspec.convert({**values, "models": values.get("models") or {}}, Grid, dec_hook=read_path)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {error}") from error
    for key in ("num_pauses_inf", "pause_placements", "hint_weights", "seeds"):
        if not getattr(grid, key):
            raise UserError(f"{source}: '{key}' is empty; give at least one value, or remove the key")
    tasks = {
        name: dataclasses.replace(task, **_settings_of(task, f"{source}: tasks: {name}"))
        for name, task in _named_tasks(grid, source).items()
    }
    report = None if grid.report is None else converted_settings(grid.report, ReportConfig, f"{source}: report")
    pretraining = None if pretrain is None else read_pretraining(pretrain, f"{source}: pretrain")
    return dataclasses.replace(grid, tasks=tasks, report=report, pretrain=pretraining, **_settings_of(grid, source))


def _named_tasks(grid: Grid, source: str) -> dict[str, GridTask]:
    """Return the tasks by names for files. Raises :class:`UserError` for unknown tasks, and two of one name."""
    found: dict[str, GridTask] = {}
    for key, task in grid.tasks.items():
        asked = str(task.task or key)
        try:
            definition = find_definition(asked, grid.include_path)
        except UserError as error:
            raise UserError(f"{source}: tasks: {str(error).removeprefix('--task ')}") from error
        name = key if task.task else definition.file_name
        require_name(name, f"{source}: tasks")
        if name in found:
            raise UserError(f"{source}: tasks: two definitions have the name {name}; give one of them another")
        path = str(Path(asked).expanduser().absolute()) if is_file(asked) else asked
        found[name] = dataclasses.replace(task, task=None if path == name else path)
    return found


def _settings_of(settings: Grid | GridTask, where: str) -> dict[str, Any]:
    return {
        "finetune": converted_settings(settings.finetune, FinetuneConfig, f"{where}: finetune", presets=True),
        "evaluate": converted_settings(settings.evaluate, EvaluateConfig, f"{where}: evaluate"),
    }


def _with_data(name: str, task: GridTask, config: GridConfig, source: str) -> GridTask:
    """Return ``task`` with the absolute path of its data: in ``--data`` if given. A dry run needs no folder there."""
    if config.data is None:
        return task
    candidates = (name, *OTHER_NAMES.get(name, ()))
    found = next((name for name in candidates if (config.data / name).is_dir()), name if config.dry_run else None)
    if found is None:
        names = " or ".join(candidates)
        raise UserError(f"--data {config.data}: has no folder '{names}' for the task {name} of {source}; add it")
    return dataclasses.replace(task, data=(config.data / found).absolute())
