"""Tasks: one lm-evaluation-harness definition each, which finetuning reads too, so that prompts cannot drift apart.

A definition is a file ``tasks/NAME.yaml`` in the harness's own format. Evaluation hands the task to the harness;
finetuning renders the task's training split through the very same ``doc_to_text`` and ``doc_to_target``. Adding a
benchmark means adding its definition there. The data come from a local folder of ``SPLIT.jsonl`` files where one is
given, and otherwise from where the definition says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from pause_megatron.errors import UserError

DEFINITIONS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class TextPair:
    """A training document as text."""

    context: str
    target: str
    """What follows the context, its delimiter included."""


@dataclass(frozen=True)
class Task:
    """A task's definition with its data."""

    name: str
    harness: ConfigurableTask
    """What the harness evaluates."""

    @property
    def primary_metric(self) -> str:
        """The metric the definition names first."""
        metric: str = self.harness.config.metric_list[0]["metric"]
        return metric

    def training_pairs(self) -> list[TextPair]:
        """Every training document, worded exactly as evaluation words its prompts. No few-shot examples."""
        delimiter = self.harness.config.target_delimiter
        return [
            TextPair(self.harness.doc_to_text(document), delimiter + self.harness.doc_to_target(document))
            for document in self.harness.training_docs()
        ]


def task_names() -> list[str]:
    """The names ``--task`` takes. A file whose name begins with an underscore is only there to be included."""
    return sorted(path.stem for path in DEFINITIONS.glob("[!_]*.yaml"))


def load_task(name: str, data_folder: Path | None) -> Task:
    """Load the definition ``name``, with its data from ``data_folder`` if one is given.

    Raises :class:`UserError` for an unknown task, an absent folder or split file, and a record that is not one.
    """
    if name not in task_names():
        raise UserError(f"--task {name}: unknown; tasks: {', '.join(task_names())}")
    definition = load_yaml(DEFINITIONS / f"{name}.yaml")
    if data_folder is not None:
        if not data_folder.is_dir():
            raise UserError(f"--data {data_folder}: no such folder")
        splits = JsonLinesSplits(data_folder, definition["metadata"]["fields"])
        definition.pop("dataset_kwargs", None)
        definition["custom_dataset"] = lambda **_: splits
    elif definition["dataset_path"] == "json":
        raise UserError(f"--task {name} has no data of its own; give --data FOLDER with its .jsonl files")
    return Task(name, ConfigurableTask(config=definition))


class JsonLinesSplits(Mapping[str, datasets.Dataset]):
    """A folder's ``SPLIT.jsonl`` files, each read and checked when it is first asked for."""

    def __init__(self, folder: Path, fields: list[str]) -> None:
        self._folder = folder
        self._fields = fields
        self._loaded: dict[str, datasets.Dataset] = {}

    def __getitem__(self, split: str) -> datasets.Dataset:
        if split not in self._loaded:
            self._loaded[split] = datasets.Dataset.from_list(self._read(self._folder / f"{split}.jsonl"))
        return self._loaded[split]

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self._folder.glob("*.jsonl")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _read(self, path: Path) -> list[dict[str, Any]]:
        if not path.is_file():
            raise UserError(f"{path}: no such file; this task needs its '{path.stem}' split there")
        with open(path, encoding="utf-8") as file:
            records = [self._record(line, f"{path}:{number}") for number, line in enumerate(file, start=1)]
        if not records:
            raise UserError(f"{path}: holds no records")
        return records

    def _record(self, line: str, where: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}") from error
        for field in self._fields:
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                raise UserError(f'{where}: expected an object with the text field "{field}"')
        return {field: record[field] for field in self._fields}
