"""Settings of an earlier run, from the JSON file that records them: ``--config run.json``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from pause_megatron.config.blend import weight_of
from pause_megatron.config.serialize import FlatField, flat_fields
from pause_megatron.config.task_definitions import is_file
from pause_megatron.errors import UserError
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import path_of_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.records.pretraining import RunRecord
from pause_megatron.shipped_files import shipped_deepspeed_file

_RECORDS = (RunRecord, FinetuneRecord, EvaluationRecord)


def settings_of_record(values: dict[str, Any], path: Path, config_class: type, program: str) -> dict[str, Any]:
    """Return the settings that ``values``, the content of ``path``, holds for ``program``, without ``output``.

    Relative paths start from the directory that the earlier run was started in, which the file gives relative to
    itself. Returns ``values`` as they are if they are not the record of a run. Raises :class:`UserError` for the record
    of another command.
    """
    record = next((kind for kind in _RECORDS if values.get("format") == kind.FORMAT), None)
    if record is None:
        return values
    if program != record.PRODUCER:
        raise UserError(f"--config {path}: is of '{record.PRODUCER}'; give it to that command")
    config, directory = values.get("config"), values.get("directory")
    if not isinstance(config, dict) or not isinstance(directory, str | None):
        raise UserError(f"--config {path}: not complete; give a file that '{record.PRODUCER}' wrote")

    def resolve(name: str) -> str:
        found = path_of_record(name, directory, path.parent)
        return name if shipped_deepspeed_file(Path(name)) and not found.exists() else str(found)

    fields = flat_fields(config_class)
    if is_file(str(config.get("task"))):
        fields["task"] = FlatField(Path, None)
    blends = getattr(config_class, "BLENDS", ())
    return {
        name: _resolved(value, fields.get(name), name in blends, resolve)
        for name, value in _flat(config)
        if name != "output"
    }


def _flat(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value


def _resolved(value: Any, field: FlatField | None, is_blend: bool, resolve: Callable[[str], str]) -> Any:
    if is_blend and isinstance(value, list):
        return [item if weight_of(item) is not None else _unlike_weight(resolve(item)) for item in map(str, value)]
    if isinstance(value, str) and field is not None and Path in (field.type, *get_args(field.type)):
        return resolve(value)
    return value


def _unlike_weight(folder: str) -> str:
    """Return ``folder`` so that a numeric name is not taken for a weight."""
    return folder if weight_of(folder) is None else f"./{folder}"
