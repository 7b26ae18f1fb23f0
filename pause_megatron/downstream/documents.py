"""Documents of benchmarks whose files are not yet one question each, for the task definitions in ``tasks/``."""

from __future__ import annotations

from typing import Any

import datasets


def squad_answers(document: dict[str, Any]) -> list[str]:
    """All reference answers; the first is what finetuning learns."""
    answers: list[str] = document["answers"]["text"]
    return answers


def coqa_turns(conversations: datasets.Dataset) -> datasets.Dataset:
    """A document for every turn: ``story``, ``history`` (earlier turns, answered), ``question``, ``answers``.

    The conversation's own answer comes first, then those of other people, as often as they gave it.
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
