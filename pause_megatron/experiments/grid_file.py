"""Reads a grid file and checks every key before anything runs."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pause_megatron.config.checks import suggestion
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig, task_names
from pause_megatron.config.experiments import Grid, GridConfig, GridTask
from pause_megatron.config.serialize import flat_fields, read_settings
from pause_megatron.errors import UserError

GRIDS = Path(__file__).parent / "grids"
PRESET = "preset"
"""Key in ``finetune`` that names a preset of ``pause-megatron finetune``."""
OTHER_NAMES = {"lambada": ("lambada_openai",), "web_questions": ("webqs",), "natural_questions": ("nq_open",)}
"""Task to other names of its folder in ``--data``: those of the data sets."""
_SET_BY_GRID = {
    FinetuneConfig: ("model", "task", "output", "data", "halve_evaluation", "num_pauses_ft", "pause_placement", "seed"),
    EvaluateConfig: (
        *("model", "task", "output", "data", "halve_evaluation", "num_pauses_inf", "pause_placement", "pause_marker"),
        "filler",
    ),
}
"""Settings that other keys of a grid decide, such as ``num_pauses_ft`` and ``seeds``."""


def read_grid(config: GridConfig) -> Grid:
    """Read the grid that ``config`` names; ``--models`` and ``--data`` replace those of the file.

    All paths become absolute. Raises :class:`UserError` that names the file and the key if something is missing,
    unknown or of the wrong type.
    """
    presets = sorted(path.stem for path in GRIDS.glob("*.yaml"))
    preset = config.grid in presets
    path = GRIDS / f"{config.grid}.yaml" if preset else Path(config.grid)
    source = f"--grid {config.grid}"
    values = read_settings(path, source, instead=f"; give a YAML file, or one of {', '.join(presets)}")
    if config.models:
        values["models"] = dict(model.split("=", 1) for model in config.models)
    if not values.get("models"):
        raise UserError(f"{source}: 'models' is empty; add a model to the file, or give --models NAME=FOLDER")
    if preset and config.data is None:
        raise UserError(f"{source}: needs data; give --data FOLDER, with one folder of .jsonl files for each task")
    grid = _convert_grid(values, source)
    for name in grid.models:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise UserError(f"{source}: models: '{name}' cannot be part of file names; use letters, digits and . _ + -")
    tasks = {name: _with_data(name, task, config.data, source) for name, task in grid.tasks.items()}
    models = {name: folder.absolute() for name, folder in grid.models.items()}
    return dataclasses.replace(grid, models=models, tasks=tasks)


def check_folders(grid: Grid, source: str) -> None:
    """Raise :class:`UserError` if the folder of a model or a task does not exist."""
    for name, folder in grid.models.items():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{source}: models: {name}: {folder} has no config.json; give an export of convert_to_hf.py"
            )
    for name, task in grid.tasks.items():
        if task.data is not None and not task.data.is_dir():
            raise UserError(f"{source}: tasks: {name}: data: {task.data} does not exist; correct the path")


def _convert_grid(values: dict[str, Any], source: str) -> Grid:
    _require_known(values, _field_names(Grid), source)
    tasks = values.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise UserError(f"{source}: 'tasks' is empty; give each task and its data folder, such as 'gsm8k: tasks/gsm8k'")
    _require_known(tasks, task_names(), f"{source}: tasks", what="task")
    if not values.get("num_pauses_ft"):
        raise UserError(f"{source}: 'num_pauses_ft' is missing; give a list of numbers, such as [0, 10]")
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
            raise UserError(f"{source}: '{key}' is empty; give at least one value, or remove the key")
    tasks = {
        name: dataclasses.replace(task, **_converted_settings(task, f"{source}: tasks: {name}"))
        for name, task in grid.tasks.items()
    }
    return dataclasses.replace(grid, tasks=tasks, **_converted_settings(grid, source))


def _converted_settings(settings: Grid | GridTask, where: str) -> dict[str, Any]:
    return {
        "finetune": _settings(settings.finetune, FinetuneConfig, f"{where}: finetune"),
        "evaluate": _settings(settings.evaluate, EvaluateConfig, f"{where}: evaluate"),
    }


def _settings(values: dict[str, Any], config_class: type, where: str) -> dict[str, Any]:
    """Convert ``values`` to the types of the fields of ``config_class``."""
    presets: Mapping[str, Any] = getattr(config_class, "PRESETS", {})
    if taken := [key for key in values if key in _SET_BY_GRID[config_class]]:
        keys = "such as tasks, num_pauses_ft and seeds"
        raise UserError(f"{where}: {taken[0]}: other keys of the grid set it, {keys}; remove it")
    kinds = {name: field.type for name, field in flat_fields(config_class).items()}
    if presets:
        kinds[PRESET] = str
    _require_known(values, kinds.keys() - set(_SET_BY_GRID[config_class]), where)
    if PRESET in values:
        _require_known([values[PRESET]], presets, f"{where}: {PRESET}", what="preset")
    converted = {}
    for key, value in values.items():
        try:  # not strict: YAML reads 1e-4, without a decimal point, as text
            converted[key] = msgspec.convert(value, kinds[key], strict=False)
        except msgspec.ValidationError as error:
            raise UserError(f"{where}: {key}: {error}") from error
    return converted


def _with_data(name: str, task: GridTask, data: Path | None, source: str) -> GridTask:
    """Return ``task`` with the absolute path of its data: in ``data`` if given."""
    if data is None:
        return dataclasses.replace(task, data=task.data and task.data.absolute())
    candidates = (name, *OTHER_NAMES.get(name, ()))
    for candidate in candidates:
        if (data / candidate).is_dir():
            return dataclasses.replace(task, data=(data / candidate).absolute())
    raise UserError(f"--data {data}: has no folder '{' or '.join(candidates)}' for the task {name} of {source}; add it")


def _require_known(keys: Iterable[Any], known: Iterable[str], where: str, what: str = "key") -> None:
    known = sorted(known)
    for key in keys:
        if key not in known:
            raise UserError(f"{where}: unknown {what} '{key}'; {suggestion(str(key), known)}")


def _field_names(config_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config_class)]


def _path(expected: type, value: Any) -> Any:
    if expected is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{expected.__name__}`, got `{type(value).__name__}`")
