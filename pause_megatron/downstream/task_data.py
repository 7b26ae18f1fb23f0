"""Data of a task: a local folder of ``SPLIT.jsonl`` files in the hub's schema, with every record checked.

A definition may state the fields of a record (:data:`Fields`) and rules that relate them (:data:`Rules`).

If a task has no training split, its evaluation split is halved: the even documents (0, 2, ...) are for finetuning, and
only the odd ones are evaluated.
"""

import codecs
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import datasets
import jinja2
import pyarrow

from pause_megatron.errors import UserError, one_line

Fields = Mapping[str, Any]
"""Field name to a kind, or the fields of a nested object. Kinds: ``text``, ``number``, ``texts`` (a list of texts),
``answer`` and ``answers`` (the same, but no text is blank)."""
Rules = Mapping[str, str]
"""Condition that every record meets, as a Jinja expression over its fields, to the words of the error, for example
``{"label in [0, 1]": '"label" must be 0 or 1'}``."""

HINTS = "hints"
"""Field of any task's record with the labels at its pauses; see :mod:`~pause_megatron.downstream.hints`."""
HintCheck = Callable[[Any], object]
"""Raises ``ValueError`` with the problem of a record's hints; gets None if the record has none."""
TRAIN = "train"
HALF = "half of the evaluation split"
"""Name of the training split of a task whose evaluation split is halved."""


class Splits(dict[str, datasets.Dataset]):
    """Splits by name, each loaded at its first use, so that evaluation does not read the training split."""

    def __init__(self, load: Callable[[str], datasets.Dataset]) -> None:
        self._load = load

    def __missing__(self, split: str) -> datasets.Dataset:
        self[split] = self._load(split)
        return self[split]


def json_lines_splits(
    folder: Path,
    fields: Fields | None,
    optional_fields: Fields,
    rules: Rules,
    hint_checks: Mapping[str, HintCheck] = MappingProxyType({}),
) -> Splits:
    """Return the ``SPLIT.jsonl`` files of ``folder``; each is checked when it is loaded. Blank lines hold no record.

    Records keep ``fields`` and ``optional_fields``, or all that they have if ``fields`` is None.
    Records of a split in ``hint_checks`` also have their hints, which must pass its check; others have none.

    Loading raises :class:`UserError` if the file is missing or has no record, and one that names the line if a line is
    not UTF-8 or not JSON, lacks one of ``fields``, has an optional field of another kind, or breaks one of ``rules``.
    """
    compiled = {jinja2.Environment().compile_expression(rule): words for rule, words in rules.items()}

    def load(split: str) -> datasets.Dataset:
        path = folder / f"{split}.jsonl"
        records = []
        for number, line in enumerate(_lines(path, split), start=1):
            if line.strip():
                try:
                    records.append(_record(line, fields, optional_fields, compiled, hint_checks.get(split)))
                except ValueError as error:
                    raise UserError(f"{path}:{number}: {error}; correct the line or remove it") from error
        if not records:
            raise UserError(f"{path}: no records; write one JSON object per line")
        names = dict.fromkeys(name for record in records for name in record)
        try:
            return datasets.Dataset.from_dict({name: [record.get(name) for record in records] for name in names})
        except pyarrow.ArrowException as error:
            raise UserError(f"{path}: a field has values of several kinds ({one_line(error)}); correct it") from error

    return Splits(load)


def _lines(path: Path, split: str) -> list[bytes]:
    """Return the lines of a file, without a byte order mark."""
    if not path.is_file():
        advice = ", or give --halve-evaluation to finetune on half of the evaluation split" * (split == TRAIN)
        raise UserError(f"{path}: no such file; add the '{split}' split of this task{advice}")
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; make it readable") from error


def halved_splits(splits: Mapping[str, datasets.Dataset], evaluated: str) -> Splits:
    """Return ``splits`` with the even documents of ``evaluated`` as split :data:`HALF`, and only the odd ones left."""

    def load(split: str) -> datasets.Dataset:
        if split not in (HALF, evaluated):
            return splits[split]
        complete = splits[evaluated]
        return complete.select(range(split != HALF, len(complete), 2))

    return Splits(load)


def _record(
    line: bytes, fields: Fields | None, optional_fields: Fields, rules: Mapping[Any, str], check_hints: HintCheck | None
) -> dict[str, Any]:
    """Return the fields of one line. Raises ``ValueError`` with the problem."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line: {error.reason})") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if fields is None and not isinstance(record, dict):
        raise ValueError("expected an object")
    chosen = dict(record) if fields is None else _choose(record, fields)
    for field, kind in optional_fields.items():
        chosen[field] = _choose(record, {field: kind})[field] if record.get(field) else None
    if check_hints:
        chosen[HINTS] = record.get(HINTS)
        check_hints(chosen[HINTS])
    try:
        json.dumps(chosen, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair ({error.object[error.start]!r}) is not text") from error
    for holds, words in rules.items():
        if not holds(**chosen):
            raise ValueError(words)
    return chosen


def _choose(record: Any, fields: Fields, within: str = "") -> dict[str, Any]:
    """Return the ``fields`` of ``record``. Raises ``ValueError`` if one is missing or of another kind."""
    chosen: dict[str, Any] = {}
    for field, kind in fields.items():
        name = f"{within}{field}"
        value = record.get(field) if isinstance(record, dict) else None
        if isinstance(kind, Mapping):
            chosen[field] = _choose(value, kind, f"{name}.")
            continue
        has_kind, words = _KINDS[kind]
        if not has_kind(value):
            raise ValueError(f'expected an object with "{name}", {words}')
        chosen[field] = value
    return chosen


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(of, value))


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (lambda value: isinstance(value, str), "a text"),
    "answer": (_is_answer, "a text that is not blank"),
    "number": (lambda value: type(value) is int and abs(value) < 2**63, "an integer of 64 bits"),
    "texts": (lambda value: _is_list(value, lambda item: isinstance(item, str)), "a list of one or more texts"),
    "answers": (lambda value: _is_list(value, _is_answer), "a list of one or more texts, none of them blank"),
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
            alternatives = [other["input_text"][turn] for other in (additional or {}).values() if _is_given(other)]
            found["story"].append(story)
            found["history"].append(history)
            found["question"].append(question)
            found["answers"].append([answer, *alternatives])  # the conversation's own answer comes first
            history += f"Q: {question}\nA: {answer}\n"
    return found


def _is_given(other: dict[str, list[str]] | None) -> bool:
    """Whether there are additional answers. The hub's training split has one empty text in their place."""
    return other is not None and any(other["input_text"])
