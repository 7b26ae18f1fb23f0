"""Samples: test items with the answer of every variant."""

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.records.evaluation import Sample
from pause_megatron.records.variants import BASELINE
from pause_megatron.report.labels import PLACEMENT_LABELS, setting_label
from pause_megatron.report.measurements import TaskResult

PAUSED = "pausept_pauseft"
LONGEST_TEXT = 1500  # characters shown of a prompt, an output or a target


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer of one variant to a question."""

    label: str
    model: str
    pauses: int
    placement: str
    """Placement of the pauses, in words."""
    output: str
    verdict: str
    """ "correct", "wrong", or a score between the two; "no score" if the metric has none for an item."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A test item with its answers."""

    task: str
    prompt: str
    target: str
    answers: tuple[Answer, ...]

    @property
    def kinds(self) -> list[str]:
        """Kinds that the page filters by: "helps" if StdPT_StdFT is wrong and PausePT_PauseFT correct, for example."""
        kinds = ["differ"] if len({answer.verdict for answer in self.answers}) > 1 else []
        verdicts = {(answer.model, answer.verdict) for answer in self.answers}
        helps, hurts = {(BASELINE, "wrong"), (PAUSED, "correct")}, {(BASELINE, "correct"), (PAUSED, "wrong")}
        return kinds + ["helps"] * (helps <= verdicts) + ["hurts"] * (hurts <= verdicts)

    @property
    def preview(self) -> str:
        """The end of the prompt in one line, because most questions are at the end."""
        line = " ".join(self.prompt.split())
        return line if len(line) <= 80 else f"… {line[-80:].partition(' ')[2] or line[-80:]}"


def pick_questions(tasks: Sequence[TaskResult], per_task: int) -> list[Question]:
    """Return the first ``per_task`` items of each task, most widely listed ones first, with the answers of one seed."""
    return [question for task in tasks for question in _questions(task, tasks)[:per_task]]


def _questions(task: TaskResult, tasks: Sequence[TaskResult]) -> list[Question]:
    answers: dict[tuple[str, str], list[Answer]] = {}
    for measurement in task.matched:
        for sample in measurement.results[0].record.samples:
            answers.setdefault((sample.prompt, sample.target), []).append(
                Answer(
                    label=setting_label(measurement.setting, tasks),
                    model=measurement.setting.model,
                    pauses=sample.pauses,
                    placement=PLACEMENT_LABELS[measurement.setting.placement],
                    output=_shortened(sample.output),
                    verdict=_verdict(sample),
                )
            )
    by_coverage = sorted(answers.items(), key=lambda item: -len(item[1]))
    return [
        Question(task=task.name, prompt=_shortened(prompt), target=_shortened(target), answers=tuple(found))
        for (prompt, target), found in by_coverage
    ]


def _verdict(sample: Sample) -> str:
    if sample.correct is None:
        return "no score"
    if sample.correct in (0, 1):
        return "correct" if sample.correct else "wrong"
    return f"score {sample.correct:.2f}"


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT:,} more characters)"
