"""Tasks: one lm-evaluation-harness definition each, for finetuning and evaluation, so that their prompts are the same.

A definition is a file ``tasks/NAME.yaml`` in the harness's format. Its ``metadata`` has ``fields`` and
``optional_fields`` of a local record (:data:`~pause_megatron.downstream.task_data.Fields`), ``rules`` that relate them
(:data:`~pause_megatron.downstream.task_data.Rules`), and ``halved: true`` if the task has no training split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from pause_megatron.config.downstream import TASK_DEFINITIONS, require_task
from pause_megatron.downstream.task_data import HINTS, TRAIN, HintCheck, halved_splits, json_lines_splits
from pause_megatron.errors import UserError, one_line


@dataclass(frozen=True)
class TextPair:
    """A training document as text."""

    context: str
    target: str
    """Text after the context, with its delimiter."""
    hints: Any = None
    """The record's ``hints``, the labels at its pauses, as :mod:`~pause_megatron.downstream.hints` checks them."""


@dataclass(frozen=True)
class Task:
    """A task's definition with its data."""

    name: str
    harness: ConfigurableTask
    """Task object of lm-evaluation-harness."""
    halved: bool
    """Whether half of the evaluation split is used for finetuning and not evaluated."""

    @property
    def primary_metric(self) -> str:
        """First metric of the definition."""
        return str(self.harness.config.metric_list[0]["metric"])

    def require_room(self, context_length: int) -> None:
        """Raise :class:`UserError` if a model of ``context_length`` positions has no room for a decoded answer."""
        wanted = (self.harness.config.generation_kwargs or {}).get("max_gen_toks", 0)
        if wanted >= context_length:
            raise UserError(
                f"--task {self.name}: decodes up to {wanted} tokens after the prompt, but the model has only "
                f"{context_length} positions; evaluate a model with more"
            )

    def training_pairs(self) -> Sequence[TextPair]:
        """Return the training documents, each worded like a prompt of the evaluation when it is read; without few-shot
        examples."""
        return _TrainingPairs(self, self.harness.training_docs())

    def pair(self, document: dict[str, Any]) -> TextPair:
        """Return ``document`` as text for finetuning."""
        target = self.harness.config.target_delimiter + self.target(document)
        return TextPair(self.harness.doc_to_text(document), target, document.get(HINTS))

    def target(self, document: dict[str, Any]) -> str:
        """Return the text that answers ``document``: the correct choice, or the first of several answers."""
        target = self.harness.doc_to_target(document)
        first = target[0] if isinstance(target, list) else target
        if self.harness.OUTPUT_TYPE == "multiple_choice" and isinstance(first, int):
            return str(self.harness.doc_to_choice(document)[first])
        return str(first)


@dataclass(frozen=True)
class _TrainingPairs(Sequence[TextPair]):
    task: Task
    documents: datasets.Dataset

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> TextPair:  # type: ignore[override]  # without slices
        return self.task.pair(self.documents[index])


def load_task(
    name: str, data_folder: Path | None, *, halve: bool = False, check_hints: HintCheck | None = None
) -> Task:
    """Load the definition ``name``, with its data from ``data_folder`` if one is given.

    With ``halve``, and for every task without a training split, the training split is half of the evaluation split.
    With ``check_hints``, every local training record must have hints that pass it; otherwise hints are ignored.

    Raises :class:`UserError` for an unknown task, a hub that cannot be reached, a missing folder or split file, and an
    invalid record.
    """
    require_task(name)
    definition = load_yaml(TASK_DEFINITIONS / f"{name}.yaml")
    if "process_docs" in definition:
        definition["process_docs"] = cache(definition["process_docs"])  # the harness calls it several times per split
    halved = halve or definition["metadata"].get("halved", False)
    evaluated = definition.get("test_split") or definition["validation_split"]
    if data_folder is None:
        splits = _hub_splits(name, definition)
    else:
        hinted = evaluated if halved else TRAIN
        splits = _local_splits(definition, data_folder, {hinted: check_hints} if check_hints else {})
    if halved:
        splits = halved_splits(splits, evaluated)
    definition.pop("dataset_kwargs", None)
    definition["custom_dataset"] = lambda **_: splits
    return Task(name, ConfigurableTask(config=definition), halved)


def _hub_splits(name: str, definition: dict[str, Any]) -> Mapping[str, datasets.Dataset]:
    path, subset = definition["dataset_path"], definition.get("dataset_name")
    if path == "json":
        raise UserError(f"--task {name}: its data are not on the hub; give --data FOLDER with its .jsonl files")
    try:
        return dict(datasets.load_dataset(path, subset))
    except Exception as error:  # the network, the hub and the cache each have their own kinds
        call = f"datasets.load_dataset({', '.join(repr(value) for value in (path, subset) if value)})"
        raise UserError(
            f"--task {name}: cannot load {path} from the hub ({type(error).__name__}: {one_line(error)}); on a machine "
            f"with internet write each split of {call} with .to_json('FOLDER/SPLIT.jsonl'), and give --data FOLDER here"
        ) from error


def _local_splits(
    definition: dict[str, Any], folder: Path, hint_checks: Mapping[str, HintCheck]
) -> Mapping[str, datasets.Dataset]:
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder; correct the path")
    metadata = definition["metadata"]
    optional, rules = metadata.get("optional_fields", {}), metadata.get("rules", {})
    return json_lines_splits(folder, metadata["fields"], optional, rules, hint_checks)
