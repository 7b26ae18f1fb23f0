"""Data of a task: a local folder of ``SPLIT.jsonl`` files in the hub's schema, with every record checked.

If a task has no training split, its evaluation split is halved: the even documents (0, 2, ...) are for finetuning, and
only the odd ones are evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from pause_megatron.errors import UserError

Splits = Mapping[str, datasets.Dataset]
Fields = Mapping[str, Any]
"""Field name to ``text``, ``number``, ``texts`` (a list of texts), or the fields of a nested object."""

TRAIN = "train"


class JsonLinesSplits(Splits):
    """The ``SPLIT.jsonl`` files of a folder, each read and checked at its first use."""

    def __init__(self, folder: Path, fields: Fields, optional_fields: Fields) -> None:
        self._folder = folder
        self._fields = fields
        self._optional_fields = optional_fields
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
            advice = ", or give --halve-evaluation to finetune on half of the evaluation split" * (path.stem == TRAIN)
            raise UserError(f"{path}: no such file; add the '{path.stem}' split of this task{advice}")
        with open(path, encoding="utf-8") as file:
            records = [self._record(line, f"{path}:{number}") for number, line in enumerate(file, start=1)]
        if not records:
            raise UserError(f"{path}: no records; write one JSON object per line")
        return records

    def _record(self, line: str, where: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}") from error
        chosen = _choose(record, self._fields, where)
        for field, kind in self._optional_fields.items():
            present = isinstance(record.get(field), dict) and set(record[field]) >= set(kind)
            chosen[field] = _choose(record, {field: kind}, where)[field] if present else None
        return chosen


def _choose(record: Any, fields: Fields, where: str, within: str = "") -> dict[str, Any]:
    """Return the ``fields`` of ``record``. Raises :class:`UserError` if one is missing or has another type."""
    chosen: dict[str, Any] = {}
    for field, kind in fields.items():
        name = f"{within}{field}"
        value = record.get(field) if isinstance(record, dict) else None
        if isinstance(kind, Mapping):
            chosen[field] = _choose(value, kind, where, f"{name}.")
            continue
        has_kind, words = _KINDS[kind]
        if not has_kind(value):
            raise UserError(f'{where}: expected an object with "{name}", {words}')
        chosen[field] = value
    return chosen


_KINDS = {
    "text": (lambda value: isinstance(value, str), "a text"),
    "number": (lambda value: isinstance(value, int) and not isinstance(value, bool), "an integer"),
    "texts": (
        lambda value: bool(value) and isinstance(value, list) and all(isinstance(item, str) for item in value),
        "a list of one or more texts",
    ),
}
"""Kind of a field to its test, and its name in error messages."""


class HalvedSplits(Splits):
    """``splits`` with the even documents of ``evaluated`` as the training split, and only the odd ones left in it."""

    def __init__(self, splits: Splits, evaluated: str) -> None:
        self._splits = splits
        self._evaluated = evaluated
        self._halves: dict[str, datasets.Dataset] = {}

    def __getitem__(self, split: str) -> datasets.Dataset:
        if split not in (TRAIN, self._evaluated):
            return self._splits[split]
        if split not in self._halves:
            complete = self._splits[self._evaluated]
            self._halves[split] = complete.select(range(split != TRAIN, len(complete), 2))
        return self._halves[split]

    def __iter__(self) -> Iterator[str]:
        return iter({*self._splits, TRAIN})

    def __len__(self) -> int:
        return len({*self._splits, TRAIN})


def squad_answers(document: dict[str, Any]) -> list[str]:
    """Return all reference answers of a SQuAD document; finetuning uses the first."""
    answers: list[str] = document["answers"]["text"]
    return answers


def coqa_turns(conversations: datasets.Dataset) -> datasets.Dataset:
    """Return one document for each turn: ``story``, ``history`` (earlier turns), ``question``, ``answers``.

    The conversation's own answer is the first, before those of other annotators.
    """
    return conversations.map(_turns, batched=True, remove_columns=conversations.column_names)


def _turns(conversations: dict[str, list[Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"story": [], "history": [], "question": [], "answers": []}
    others = conversations.get("additional_answers") or [None] * len(conversations["story"])
    for story, questions, answers, additional in zip(
        conversations["story"], conversations["questions"], conversations["answers"], others, strict=True
    ):
        history = ""
        for turn, (question, answer) in enumerate(zip(questions["input_text"], answers["input_text"], strict=True)):
            alternatives = [other["input_text"][turn] for other in (additional or {}).values() if other]
            found["story"].append(story)
            found["history"].append(history)
            found["question"].append(question)
            found["answers"].append([answer, *alternatives])
            history += f"Q: {question}\nA: {answer}\n"
    return found
