"""How a report names things and writes numbers, so that tables, figures and sentences agree."""

from __future__ import annotations

from collections.abc import Sequence

from pause_megatron.report.cells import Cell, Difference, Setting
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.records import PretrainRun

MODEL_LABELS = {
    "stdpt_stdft": "StdPT_StdFT",
    "stdpt_pauseft": "StdPT_PauseFT",
    "pausept_stdft": "PausePT_StdFT",
    "pausept_pauseft": "PausePT_PauseFT",
    "stdpt": "StdPT, not finetuned",
    "pausept": "PausePT, not finetuned",
    "other": "other model",
}

NOTHING = "–"  # noqa: RUF001 - a dash is meant
"""Stands in a table where there is nothing to show."""


def model_label(model: str) -> str:
    """The paper's name of a variant; an unknown one keeps its own."""
    return MODEL_LABELS.get(model, model)


def run_label(run: PretrainRun, runs: tuple[PretrainRun, ...]) -> str:
    """StdPT or PausePT, with the run's name where several of the report's runs are of that kind."""
    kind = "StdPT" if run.is_standard else "PausePT"
    alike = [other for other in runs if other.is_standard == run.is_standard]
    if len(alike) == 1:
        return kind
    namesakes = [other for other in alike if other.name == run.name]
    return f"{kind} {run.name if len(namesakes) == 1 else run.source}"


def setting_label(setting: Setting, tasks: Sequence[TaskResult]) -> str:
    """A setting's model, with M_ft and the attention only where some task holds several of that model."""
    alike = [[cell.setting for cell in task.matched if cell.setting.model == setting.model] for task in tasks]
    label = model_label(setting.model)
    if any(len({other.num_pauses_ft for other in settings}) > 1 for settings in alike):
        label += f", M_ft {setting.num_pauses_ft or 0}"
    if any(len({other.prefix_attention for other in settings}) > 1 for settings in alike):
        label += f", {setting.prefix_attention} prefix"
    return label


def unit(task: TaskResult) -> str:
    """What a task's metric is written in: percent, or nothing."""
    return "%" if task.is_percentage else ""


def value(number: float | None, task: TaskResult) -> str:
    """A value of a task's metric, or an error of it: in percent to a tenth, otherwise to three digits."""
    if number is None:
        return NOTHING
    return f"{100 * number:.1f}" if task.is_percentage else f"{number:.3g}"


def with_error(cell: Cell, task: TaskResult) -> str:
    """A cell's mean with its standard error, as in "61.4 ± 2.1"."""
    return value(cell.mean, task) + ("" if cell.stderr is None else f" ± {value(cell.stderr, task)}")


def signed(difference: Difference, task: TaskResult) -> str:
    """A difference with its standard error, as in "+9.8 ± 3.0"."""
    sign = "−" if difference.value < 0 else "+"  # noqa: RUF001 - a minus sign, as wide as the plus
    text = sign + value(abs(difference.value), task)
    return text if difference.stderr is None else f"{text} ± {value(difference.stderr, task)}"


def verdict(difference: Difference) -> str:
    """What may be said of a difference."""
    if difference.stderr is None:
        return "no standard error known"
    if not difference.is_distinguishable:
        return "not distinguishable"
    return f"more than 2 s.e. {'higher' if difference.value > 0 else 'lower'}"


def whole(number: int | None) -> str:
    """A count in full, digits in groups of three."""
    return NOTHING if number is None else f"{number:,}"


def rounded(number: float) -> str:
    """A count to three digits with a letter for its size, as in "1.35B"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, as in "1 seed" and "3 seeds"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(items: list[str]) -> str:
    """Items as prose, as in "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
