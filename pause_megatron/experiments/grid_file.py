"""Reads a grid file, or one that comes with the program, and checks every key of it before anything runs."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig, task_names
from pause_megatron.config.experiments import Grid, GridConfig, GridTask
from pause_megatron.config.serialize import flat_fields
from pause_megatron.errors import UserError

GRIDS = Path(__file__).parent / "grids"
PRESET = "preset"
"""Key in ``finetune`` that names a preset of ``pause-megatron finetune``."""
OTHER_NAMES = {
    "lambada": ("lambada_openai",),
    "web_questions": ("webqs",),
    "natural_questions": ("nq_open",),
}
"""What else a task's folder in ``--data`` may be called."""
_SET_BY_GRID = {
    FinetuneConfig: ("model", "task", "output", "data", "halve_evaluation", "num_pauses_ft", "pause_placement", "seed"),
    EvaluateConfig: (
        *("model", "task", "output", "data", "halve_evaluation", "num_pauses_inf", "pause_placement", "pause_marker"),
        "filler",
    ),
}
"""Fields that other keys of a grid decide."""


def preset_names() -> list[str]:
    """The grids that come with the program."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def read_grid(config: GridConfig) -> Grid:
    """Read the grid ``config`` names, with its models and data replaced by those of the command line.

    All paths of the grid are absolute. Raises :class:`UserError` that names the file and the key for everything that
    is missing, unknown or of the wrong type.
    """
    preset = config.grid in preset_names()
    path = GRIDS / f"{config.grid}.yaml" if preset else Path(config.grid)
    source = f"--grid {config.grid}"
    values = _read_yaml(path, source)
    if config.models:
        values["models"] = dict(model.split("=", 1) for model in config.models)
    if not values.get("models"):
        raise UserError(f"{source}: 'models' names no model; add it to the file, or give --models NAME=FOLDER")
    if preset and config.data is None:
        raise UserError(f"{source}: give --data FOLDER, with one folder of .jsonl files for each task")
    grid = _convert_grid(values, source)
    for name in grid.models:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise UserError(f"{source}: models: '{name}' becomes part of file names; use letters, digits and . _ + -")
    tasks = {name: _with_data(name, task, config.data, source) for name, task in grid.tasks.items()}
    models = {name: folder.absolute() for name, folder in grid.models.items()}
    return dataclasses.replace(grid, models=models, tasks=tasks)


def check_folders(grid: Grid, source: str) -> None:
    """Raise :class:`UserError` for a model or a task of ``grid`` whose folder is not there."""
    for name, folder in grid.models.items():
        if not (folder / "config.json").is_file():
            raise UserError(f"{source}: models: {name}: {folder} is no exported Hugging Face folder (no config.json)")
    for name, task in grid.tasks.items():
        if task.data is not None and not task.data.is_dir():
            raise UserError(f"{source}: tasks: {name}: data: {task.data}: no such folder")


def _read_yaml(path: Path, source: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        grids = ", ".join(preset_names())
        raise UserError(f"{source}: {error.strerror or error}; give a file, or one of {grids}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
    return values


def _convert_grid(values: dict[str, Any], source: str) -> Grid:
    _require_known(values, _field_names(Grid), source)
    tasks = values.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise UserError(f"{source}: 'tasks' names no task; expected a mapping of a task's name to its data folder")
    _require_known(tasks, task_names(), f"{source}: tasks", what="task")
    if not values.get("num_pauses_ft"):
        raise UserError(f"{source}: 'num_pauses_ft' is missing; expected a list of numbers, 0 for no pauses")
    written = {name: task if isinstance(task, dict) else {"data": task} for name, task in tasks.items()}
    for name, task in written.items():
        _require_known(task, _field_names(GridTask), f"{source}: tasks: {name}")
    inference = values.get("num_pauses_inf", ["same"])
    values = {**values, "tasks": written, "num_pauses_inf": inference if isinstance(inference, list) else [inference]}
    try:
        grid = msgspec.convert(values, Grid, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {error}") from error
    for key in ("num_pauses_inf", "pause_placements", "seeds"):
        if not getattr(grid, key):
            raise UserError(f"{source}: '{key}' is empty")
    tasks = {name: _convert_settings(task, f"{source}: tasks: {name}: ") for name, task in grid.tasks.items()}
    return dataclasses.replace(_convert_settings(grid, f"{source}: "), tasks=tasks)


Part = typing.TypeVar("Part", Grid, GridTask)


def _convert_settings(part: Part, where: str) -> Part:
    """``part`` with its ``finetune`` and ``evaluate`` checked and of the right types."""
    return dataclasses.replace(
        part,
        finetune=_settings(part.finetune, FinetuneConfig, f"{where}finetune"),
        evaluate=_settings(part.evaluate, EvaluateConfig, f"{where}evaluate"),
    )


def _settings(values: dict[str, Any], config_class: type, where: str) -> dict[str, Any]:
    presets: Mapping[str, Any] = getattr(config_class, "PRESETS", {})
    taken = _SET_BY_GRID[config_class]
    for key in values:
        if key in taken:
            raise UserError(f"{where}: {key}: the grid itself sets it, by its models, tasks, num_pauses_* and the like")
    free = [name for name in flat_fields(config_class) if name not in taken]
    _require_known(values, [*free, *([PRESET] if presets else [])], where)
    fields = flat_fields(config_class)
    converted = {}
    for key, value in values.items():
        if key == PRESET:
            _require_known([value], presets, f"{where}: {PRESET}", what="preset")
            converted[key] = value
            continue
        try:  # not strict: to YAML 1e-4 is a text, for want of a decimal point
            converted[key] = msgspec.convert(value, fields[key].type, strict=False)
        except msgspec.ValidationError as error:
            raise UserError(f"{where}: {key}: {error}") from error
    return converted


def _with_data(name: str, task: GridTask, data: Path | None, source: str) -> GridTask:
    """``task`` with its data in ``data``, if that is given, and as an absolute path."""
    if data is None:
        return dataclasses.replace(task, data=task.data and task.data.absolute())
    candidates = (name, *OTHER_NAMES.get(name, ()))
    for candidate in candidates:
        if (data / candidate).is_dir():
            return dataclasses.replace(task, data=(data / candidate).absolute())
    raise UserError(f"--data {data}: no folder '{' or '.join(candidates)}' for the task {name} of {source}")


def _require_known(keys: Iterable[Any], known: Iterable[str], where: str, what: str = "key") -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            raise UserError(f"{where}: unknown {what} '{key}'; known {what}s: {', '.join(sorted(known))}")


def _field_names(config_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config_class)]


def _path(expected: type, value: Any) -> Any:
    if expected is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{expected.__name__}`, got `{type(value).__name__}`")
