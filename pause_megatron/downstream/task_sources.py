"""Sources of a task's data: a local folder, a function of the definition, files that it names, or the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from pause_megatron.config.task_definitions import Definition
from pause_megatron.downstream.task_data import HintCheck, json_lines_splits
from pause_megatron.errors import UserError, one_line

_FILE_FORMATS = ("json", "csv", "parquet", "arrow", "text")
"""Values of ``dataset_path`` that read files, which ``dataset_kwargs`` names."""


def splits_of(
    found: Definition, keys: dict[str, Any], folder: Path | None, hint_checks: Mapping[str, HintCheck]
) -> Mapping[str, datasets.Dataset]:
    """Return the splits of a task with the definition ``found``, whose ``keys`` have functions in place of names.

    The source is ``folder`` if one is given, else the one of the definition, as in the harness. Raises
    :class:`UserError` for data that cannot be loaded.
    """
    if folder is not None:
        return _local_splits(keys, folder, hint_checks)
    own, arguments = keys.get("custom_dataset"), dict(keys.get("dataset_kwargs") or {})
    arguments.pop("trust_remote_code", None)  # datasets no longer runs code of the hub
    path, subset = keys.get("dataset_path"), keys.get("dataset_name")
    if found.source == "shipped" and path == "json":
        raise UserError(f"--task {found.name}: its data are not on the hub; give --data FOLDER with its .jsonl files")
    try:
        if callable(own):
            return dict(own(**{**keys["metadata"], "config_source": str(found.path)}, **arguments))
        return dict(datasets.load_dataset(path, subset, **arguments))
    except Exception as error:  # the network, the hub, the cache and functions each have their own kinds
        raise _not_loaded(found, path, subset, error, by_function=callable(own)) from error


def _not_loaded(found: Definition, path: Any, subset: Any, error: Exception, *, by_function: bool) -> UserError:
    reason = f"({type(error).__name__}: {one_line(error)})"
    if by_function or path in _FILE_FORMATS or path is None:
        what = "the function custom_dataset" if by_function else f"dataset_path: {path}"
        return UserError(
            f"--task {found.name}: {what} of {found.path} gives no data {reason}; correct dataset_kwargs, whose"
            " relative paths start from the current folder, or give --data FOLDER"
        )
    call = f"datasets.load_dataset({', '.join(repr(value) for value in (path, subset) if value)})"
    return UserError(
        f"--task {found.name}: cannot load {path} from the hub {reason}; on a machine with internet write each split of"
        f" {call} with .to_json('FOLDER/SPLIT.jsonl') and give --data FOLDER here, or copy its cache here (HF_HOME) and"
        " set HF_HUB_OFFLINE=1"
    )


def _local_splits(
    keys: dict[str, Any], folder: Path, hint_checks: Mapping[str, HintCheck]
) -> Mapping[str, datasets.Dataset]:
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder; correct the path")
    metadata = keys["metadata"]
    optional, rules = metadata.get("optional_fields", {}), metadata.get("rules", {})
    return json_lines_splits(folder, metadata.get("fields"), optional, rules, hint_checks)
