"""Picks the test items a report shows: one question with the answer of every variant, so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.report.cells import VARIANTS
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.labels import PLACEMENT_LABELS, setting_label
from pause_megatron.report.records import Sample

LONGEST_TEXT = 1500
"""Characters shown of a prompt, an output or a target."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one variant made of a question. ``verdict`` is "correct", "wrong", or a score between."""

    label: str
    model: str
    pauses: int
    placement: str
    """Where the pauses stand, in words."""
    output: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """A test item with the answers to it, in the order of the tables."""

    task: str
    prompt: str
    target: str
    answers: tuple[Answer, ...]

    @property
    def kinds(self) -> list[str]:
        """What may be asked for: "differ" where the verdicts do, "helps" and "hurts" where a variant with pauses alone,
        in pretraining and finetuning, is right against the standard one, or wrong."""
        verdicts = {answer.verdict for answer in self.answers}
        kinds = ["differ"] if len(verdicts) > 1 else []
        of_model = {model: [answer.verdict for answer in self.answers if answer.model == model] for model in VARIANTS}
        standard, paused = of_model[VARIANTS[0]], of_model[VARIANTS[-1]]
        if "wrong" in standard and "correct" in paused:
            kinds.append("helps")
        if "correct" in standard and "wrong" in paused:
            kinds.append("hurts")
        return kinds

    @property
    def preview(self) -> str:
        """The end of the prompt in one line, where the question mostly stands."""
        line = " ".join(self.prompt.split())
        return line if len(line) <= 80 else f"… {line[-80:].partition(' ')[2] or line[-80:]}"


def pick_questions(tasks: Sequence[TaskResult], per_task: int) -> list[Question]:
    """The first ``per_task`` items of each task, in the order of the results: none is picked for what it shows.

    Items that every variant's result lists come first. Of several seeds the first answers.
    """
    return [question for task in tasks for question in _questions(task, tasks)[:per_task]]


def _questions(task: TaskResult, tasks: Sequence[TaskResult]) -> list[Question]:
    answers: dict[tuple[str, str], list[Answer]] = {}
    for cell in task.matched:
        for sample in cell.evaluations[0].samples:
            answers.setdefault((sample.prompt, sample.target), []).append(
                Answer(
                    label=setting_label(cell.setting, tasks),
                    model=cell.setting.model,
                    pauses=sample.pauses,
                    placement=PLACEMENT_LABELS[cell.setting.placement],
                    output=_cut(sample.output),
                    verdict=_verdict(sample),
                )
            )
    by_coverage = sorted(answers.items(), key=lambda item: -len(item[1]))
    return [
        Question(task=task.name, prompt=_cut(prompt), target=_cut(target), answers=tuple(found))
        for (prompt, target), found in by_coverage
    ]


def _verdict(sample: Sample) -> str:
    if sample.correct in (0, 1):
        return "correct" if sample.correct else "wrong"
    return f"score {sample.correct:.2f}"


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT:,} characters more)"
