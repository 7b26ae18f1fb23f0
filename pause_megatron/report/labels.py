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

PLACEMENT_LABELS = {"append": "appended", "prepend": "prepended", "before-marker": "before a marker"}

NOTHING = "–"  # noqa: RUF001 - a dash is meant
"""Stands in a table where there is nothing to show."""
MINUS = "−"  # noqa: RUF001 - a minus sign, as wide as the plus


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


def pauses_label(setting: Setting) -> str:
    """M_ft as in "10", or "0 to 50" where it was drawn for each example; a dash without finetuning."""
    if setting.num_pauses_ft is None:
        return NOTHING
    fewest = "" if setting.fewest_pauses_ft is None else f"{setting.fewest_pauses_ft} to "
    return f"{fewest}{setting.num_pauses_ft}"


def pauses_kind(setting: Setting) -> str:
    """Where a setting's pauses stand and what stands for them, as in "appended" and "appended, filler '.'"."""
    if not (setting.num_pauses_ft or setting.num_pauses_inf):
        return NOTHING
    return PLACEMENT_LABELS[setting.placement] + (f", filler '{setting.filler}'" if setting.filler else "")


def setting_label(setting: Setting, tasks: Sequence[TaskResult]) -> str:
    """A setting's model, with M_ft, attention and a placement other than the paper's only where some task holds several
    of that model.
    """
    alike = [[cell.setting for cell in task.matched if cell.setting.model == setting.model] for task in tasks]
    label = model_label(setting.model)
    for words in (
        lambda one: f", M_ft {pauses_label(one)}",
        lambda one: "" if one.placement == "append" else f", {PLACEMENT_LABELS[one.placement]}",
        lambda one: f", {one.prefix_attention} prefix",
    ):
        if any(len({words(other) for other in settings}) > 1 for settings in alike):
            label += words(setting)
    return label


def series_label(setting: Setting, task: TaskResult) -> str:
    """The finetuned model of a setting: its variant, M_ft if it paused, where its pauses stand if not appended, and its
    attention where the task holds several.
    """
    label = model_label(setting.model)
    if setting.num_pauses_ft:
        label += f", M_ft {pauses_label(setting)}"
    if setting.placement != "append":
        label += f", {PLACEMENT_LABELS[setting.placement]}"
    if len({cell.setting.prefix_attention for cell in task.cells}) > 1:
        label += f", {setting.prefix_attention} prefix"
    return label


def unit(task: TaskResult) -> str:
    """What a task's metric is written in: percent, or nothing."""
    return "%" if task.is_percentage else ""


def metric_label(task: TaskResult) -> str:
    """A task's metric with its unit, as in "em, %"."""
    return f"{task.metric}, {unit(task)}" if unit(task) else task.metric


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
    sign = MINUS if difference.value < 0 else "+"
    text = sign + value(abs(difference.value), task)
    return text if difference.stderr is None else f"{text} ± {value(difference.stderr, task)}"


def verdict(difference: Difference) -> str:
    """What may be said of a difference."""
    if difference.stderr is None:
        return "no standard error known"
    if not difference.is_distinguishable:
        return "not distinguishable"
    return "higher" if difference.value > 0 else "lower"


def interval(ends: tuple[float, float] | None, task: TaskResult) -> str:
    """An interval of differences, as in "+2.1 to +9.8"."""
    if ends is None:
        return NOTHING
    return " to ".join(signed(Difference(value=end, uncertainty=None), task) for end in ends)


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
