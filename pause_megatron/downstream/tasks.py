"""Tasks: one lm-evaluation-harness definition each, which finetuning reads too, so that prompts cannot drift apart.

A definition is a file ``tasks/NAME.yaml`` in the harness's own format. Evaluation hands the task to the harness;
finetuning renders the task's training split through the very same ``doc_to_text`` and ``doc_to_target``. Adding a
benchmark means adding its definition there. The data come from a local folder of ``SPLIT.jsonl`` files where one is
given, and otherwise from where the definition says.

In a definition's ``metadata``: ``fields`` and ``optional_fields`` say what a local record must and may have
(:data:`~pause_megatron.downstream.task_data.Fields`), and ``halved`` that the task has no training split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from pause_megatron.downstream.task_data import HalvedSplits, JsonLinesSplits, Splits
from pause_megatron.downstream.task_names import DEFINITIONS, task_names
from pause_megatron.errors import UserError


@dataclass(frozen=True)
class TextPair:
    """A training document as text."""

    context: str
    target: str
    """What follows the context, its delimiter included."""


class TextPairs(Protocol):
    """Text pairs by their index: a list, or documents that are worded one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> TextPair: ...


@dataclass(frozen=True)
class Task:
    """A task's definition with its data."""

    name: str
    harness: ConfigurableTask
    """What the harness evaluates."""
    halved: bool
    """Whether half of the evaluation split is for finetuning, and not evaluated."""

    @property
    def primary_metric(self) -> str:
        """The metric the definition names first."""
        metric: str = self.harness.config.metric_list[0]["metric"]
        return metric

    def training_pairs(self) -> TextPairs:
        """Every training document, worded exactly as evaluation words its prompts, and only when it is asked for. No
        few-shot examples."""
        return _TrainingPairs(self, self.harness.training_docs())

    def pair(self, document: dict[str, Any]) -> TextPair:
        """``document`` as text to learn from."""
        target = self.harness.config.target_delimiter + self.target(document)
        return TextPair(self.harness.doc_to_text(document), target)

    def target(self, document: dict[str, Any]) -> str:
        """The text that answers ``document``: the right choice, or the first of several answers."""
        target = self.harness.doc_to_target(document)
        if self.harness.OUTPUT_TYPE == "multiple_choice":
            choices: list[str] = self.harness.doc_to_choice(document)
            first = target[0] if isinstance(target, list) else target
            return str(choices[first] if isinstance(first, int) else first)
        return str(target[0] if isinstance(target, list) else target)


@dataclass(frozen=True)
class _TrainingPairs:
    task: Task
    documents: datasets.Dataset

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> TextPair:
        return self.task.pair(self.documents[index])


def load_task(name: str, data_folder: Path | None, *, halve: bool = False) -> Task:
    """Load the definition ``name``, with its data from ``data_folder`` if one is given.

    With ``halve``, or for a task that has no training split, half of the evaluation split takes its place.

    Raises :class:`UserError` for an unknown task, an absent folder or split file, and a record that is not one.
    """
    if name not in task_names():
        raise UserError(f"--task {name}: unknown; tasks: {', '.join(task_names())}")
    definition = load_yaml(DEFINITIONS / f"{name}.yaml")
    if "process_docs" in definition:
        definition["process_docs"] = cache(definition["process_docs"])  # the harness asks for a split again and again
    halved = halve or definition["metadata"].get("halved", False)
    if data_folder is None and definition["dataset_path"] == "json":
        raise UserError(f"--task {name} has no data of its own; give --data FOLDER with its .jsonl files")
    if data_folder is not None or halved:
        splits = _splits(definition, data_folder)
        if halved:
            splits = HalvedSplits(splits, definition.get("test_split") or definition["validation_split"])
        definition.pop("dataset_kwargs", None)
        definition["custom_dataset"] = lambda **_: splits
    return Task(name, ConfigurableTask(config=definition), halved)


def _splits(definition: dict[str, Any], data_folder: Path | None) -> Splits:
    if data_folder is None:
        hub: Splits = datasets.load_dataset(definition["dataset_path"], definition.get("dataset_name"))
        return hub
    if not data_folder.is_dir():
        raise UserError(f"--data {data_folder}: no such folder")
    metadata = definition["metadata"]
    return JsonLinesSplits(data_folder, metadata["fields"], metadata.get("optional_fields", {}))
