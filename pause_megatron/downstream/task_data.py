"""Data of a task: a local folder of ``SPLIT.jsonl`` files in the hub's schema, with every record checked.

If a task has no training split, its evaluation split is halved: the even documents (0, 2, ...) are for finetuning, and
only the odd ones are evaluated.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets

from pause_megatron.errors import UserError

Fields = Mapping[str, Any]
"""Field name to ``text``, ``number``, ``texts`` (a list of texts), or the fields of a nested object."""

TRAIN = "train"


class Splits(dict[str, datasets.Dataset]):
    """Splits by name, each loaded at its first use, so that evaluation does not read the training split."""

    def __init__(self, load: Callable[[str], datasets.Dataset]) -> None:
        self._load = load

    def __missing__(self, split: str) -> datasets.Dataset:
        self[split] = self._load(split)
        return self[split]


def json_lines_splits(folder: Path, fields: Fields, optional_fields: Fields) -> Splits:
    """Return the ``SPLIT.jsonl`` files of ``folder``; each is checked when it is loaded.

    Loading raises :class:`UserError` if the file is missing or empty, or has a record without one of ``fields``.
    """

    def load(split: str) -> datasets.Dataset:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            advice = ", or give --halve-evaluation to finetune on half of the evaluation split" * (split == TRAIN)
            raise UserError(f"{path}: no such file; add the '{split}' split of this task{advice}")
        with open(path, encoding="utf-8") as file:
            lines = [(line, f"{path}:{number}") for number, line in enumerate(file, start=1)]
        if not lines:
            raise UserError(f"{path}: no records; write one JSON object per line")
        return datasets.Dataset.from_list([_record(line, where, fields, optional_fields) for line, where in lines])

    return Splits(load)


def halved_splits(splits: Mapping[str, datasets.Dataset], evaluated: str) -> Splits:
    """Return ``splits`` with the even documents of ``evaluated`` as the training split, and only the odd ones left."""

    def load(split: str) -> datasets.Dataset:
        if split not in (TRAIN, evaluated):
            return splits[split]
        complete = splits[evaluated]
        return complete.select(range(split != TRAIN, len(complete), 2))

    return Splits(load)


def _record(line: str, where: str, fields: Fields, optional_fields: Fields) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    chosen = _choose(record, fields, where)
    for field, kind in optional_fields.items():
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


def squad_answers(document: dict[str, Any]) -> list[str]:
    """Return all reference answers of a SQuAD document; finetuning uses the first."""
    return list(document["answers"]["text"])


def coqa_turns(conversations: datasets.Dataset) -> datasets.Dataset:
    """Return one document for each turn: ``story``, ``history`` (earlier turns), ``question``, ``answers``."""
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
            found["answers"].append([answer, *alternatives])  # the conversation's own answer comes first
            history += f"Q: {question}\nA: {answer}\n"
    return found
