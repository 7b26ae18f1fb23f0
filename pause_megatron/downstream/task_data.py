"""A task's data: a folder of ``SPLIT.jsonl`` files in the hub's schema, checked record by record; or the hub's.

Where a task has no training split, the evaluation split is halved: every second document is for finetuning, and the
others are all that is ever evaluated.
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
"""Field to ``text``, ``number``, ``texts`` (a list of texts), or the fields of an object within."""

TRAIN = "train"


class JsonLinesSplits(Splits):
    """A folder's ``SPLIT.jsonl`` files, each read and checked when it is first asked for."""

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
            advice = "; or give --halve-evaluation, to finetune on half of what is evaluated" * (path.stem == TRAIN)
            raise UserError(f"{path}: no such file; this task needs its '{path.stem}' split there{advice}")
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
        chosen = _choose(record, self._fields, where)
        for field, kind in self._optional_fields.items():
            present = isinstance(record.get(field), dict) and set(record[field]) >= set(kind)
            chosen[field] = _choose(record, {field: kind}, where)[field] if present else None
        return chosen


def _choose(record: Any, fields: Fields, where: str, within: str = "") -> dict[str, Any]:
    """The ``fields`` of ``record``. Raises :class:`UserError` when one is missing or of another type."""
    chosen: dict[str, Any] = {}
    for field, kind in fields.items():
        name = f"{within}{field}"
        value = record.get(field) if isinstance(record, dict) else None
        if isinstance(kind, Mapping):
            chosen[field] = _choose(value, kind, where, f"{name}.")
            continue
        if not _KINDS[kind](value):
            raise UserError(f'{where}: expected an object with "{name}", {_WORDS[kind]}')
        chosen[field] = value
    return chosen


_KINDS = {
    "text": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "texts": lambda value: bool(value) and isinstance(value, list) and all(isinstance(item, str) for item in value),
}
_WORDS = {"text": "a text", "number": "a whole number", "texts": "a list of one or more texts"}


class HalvedSplits(Splits):
    """``splits`` with every second document of ``evaluated`` as the training split, and the others left there."""

    def __init__(self, splits: Splits, evaluated: str) -> None:
        self._splits = splits
        self._evaluated = evaluated
        self._halves: dict[str, datasets.Dataset] = {}

    def __getitem__(self, split: str) -> datasets.Dataset:
        if split not in (TRAIN, self._evaluated):
            return self._splits[split]
        if split not in self._halves:
            whole = self._splits[self._evaluated]
            self._halves[split] = whole.select(range(split != TRAIN, len(whole), 2))
        return self._halves[split]

    def __iter__(self) -> Iterator[str]:
        return iter({*self._splits, TRAIN})

    def __len__(self) -> int:
        return len({*self._splits, TRAIN})
