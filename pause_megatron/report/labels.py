"""Names and numbers as a report writes them, shared by tables, figures and sentences."""

from collections.abc import Sequence

from pause_megatron.records.variants import VARIANT_LABELS
from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.measured_settings import Setting
from pause_megatron.report.measurements import Measurement, TaskResult

MODEL_LABELS = VARIANT_LABELS | {
    "stdpt": "StdPT, not finetuned",
    "pausept": "PausePT, not finetuned",
    "other": "other model",
}
PLACEMENT_LABELS = {
    "append": "appended",
    "prepend": "prepended",
    "before-marker": "before a marker",
    "after-marker": "after each marker",
    "every": "after every token",
    "before-unlikely": "before unlikely tokens",
}
NOTHING = "–"  # noqa: RUF001 - a dash is meant
"""Table cell without a value."""
_LONGEST_FILLER = 20
MINUS = "−"  # noqa: RUF001 - a minus sign, as wide as the plus


def model_label(model: str) -> str:
    """The paper's name of a variant, for example "PausePT_StdFT"; an unknown model keeps its name."""
    return MODEL_LABELS.get(model, model)


def pretrained_label(setting: Setting) -> str:
    """:func:`model_label`, with the pretrained model's name if the report has several of this variant."""
    return model_label(setting.model) + (f" ({setting.pretrained})" if setting.pretrained else "")


def run_kind(run: PretrainRun) -> str:
    """StdPT or PausePT."""
    return "StdPT" if run.is_standard else "PausePT"


def run_label(run: PretrainRun, runs: tuple[PretrainRun, ...]) -> str:
    """StdPT or PausePT, followed by the run's name if the report has several runs of that kind."""
    kind = run_kind(run)
    alike = [other for other in runs if other.is_standard == run.is_standard]
    if len(alike) == 1:
        return kind
    namesakes = [other for other in alike if other.record.name == run.record.name]
    return f"{kind} {run.record.name if len(namesakes) == 1 else run.source}"


def pauses_label(setting: Setting) -> str:
    """M_ft, for example "10", or "0 to 50" if it was drawn for each example; a dash without finetuning."""
    if setting.num_pauses_ft is None:
        return NOTHING
    smallest = "" if setting.min_num_pauses_ft is None else f"{setting.min_num_pauses_ft} to "
    return f"{smallest}{setting.num_pauses_ft}"


def pauses_kind(setting: Setting) -> str:
    """Placement of a setting's pauses, their inputs and hints, for example "appended" or "appended, filler '.'"."""
    if not (setting.num_pauses_ft or setting.num_pauses_inf):
        return NOTHING
    return PLACEMENT_LABELS[setting.placement] + inputs_label(setting) + hints_label(setting)


def inputs_label(setting: Setting) -> str:
    """Inputs at the pauses as a part of a label, for example ", filler '.'"; or nothing for ``<pause>``."""
    if setting.repeats:
        return ", the token before"
    return "" if setting.filler is None else f", filler '{shortened(setting.filler)}'"


def shortened(filler: str) -> str:
    """A filler with at most 20 characters, for example "1 2 3 4 5 6 7 8 9 1…"."""
    text = filler if filler.isprintable() else repr(filler)[1:-1]
    return text if len(text) <= _LONGEST_FILLER else text[: _LONGEST_FILLER - 1] + "…"


def hints_label(setting: Setting) -> str:
    """Labels at the pauses in finetuning as a part of a label, for example ", hints with weight 1"; or nothing."""
    return "" if setting.hint_weight is None else f", hints with weight {setting.hint_weight:g}"


def setting_label(setting: Setting, tasks: Sequence[TaskResult]) -> str:
    """A setting's model, followed by M_ft, placement and attention if some task has several of them for this model.

    For example, "PausePT_PauseFT, M_ft 10, prepended".
    """
    model = setting.model, setting.pretrained
    settings_of = [[one.setting for one in task.matched] for task in tasks]
    alike = [[one for one in settings if (one.model, one.pretrained) == model] for settings in settings_of]
    label = pretrained_label(setting)
    for describe in (
        lambda one: f", M_ft {pauses_label(one)}",
        lambda one: "" if one.placement == "append" else f", {PLACEMENT_LABELS[one.placement]}",
        inputs_label,
        hints_label,
        lambda one: f", {one.prefix_attention} prefix",
    ):
        if any(len({describe(other) for other in settings}) > 1 for settings in alike):
            label += describe(setting)
    return label


def series_label(setting: Setting, task: TaskResult) -> str:
    """The finetuned model of a series over M_inf, for example "PausePT_PauseFT, M_ft 10"."""
    label = pretrained_label(setting)
    if setting.num_pauses_ft:
        label += f", M_ft {pauses_label(setting)}"
    if setting.placement != "append":
        label += f", {PLACEMENT_LABELS[setting.placement]}"
    label += inputs_label(setting) + hints_label(setting)
    if len({measurement.setting.prefix_attention for measurement in task.measurements}) > 1:
        label += f", {setting.prefix_attention} prefix"
    return label


def metric_label(task: TaskResult) -> str:
    """A task's metric with its unit, for example "em in %"."""
    return f"{task.metric} in %" if task.is_percentage else task.metric


def value(number: float | None, task: TaskResult) -> str:
    """A value or an error of a task's metric: in percent with one decimal, otherwise with three digits."""
    if number is None:
        return NOTHING
    return f"{100 * number:.1f}" if task.is_percentage else f"{number:.3g}"


def with_interval(measurement: Measurement, task: TaskResult) -> str:
    """A mean with its 95 % interval, for example "61.4 (57.1 to 65.6)"."""
    ends = task.interval(measurement)
    text = value(measurement.mean, task)
    return text if ends is None else f"{text} ({value(ends[0], task)} to {value(ends[1], task)})"


def amount(measurement: Measurement, task: TaskResult) -> str:
    """A mean with its unit and its 95 % interval, for example "61.4% (57.1 to 65.6)"."""
    number, space, ends = with_interval(measurement, task).partition(" ")
    return number + ("%" if task.is_percentage else "") + space + ends


def signed(number: float, task: TaskResult) -> str:
    """A difference with its sign, for example "+9.8"."""
    return (MINUS if number < 0 else "+") + value(abs(number), task)


def points(task: TaskResult) -> str:
    """The unit of a difference with a space before it, or nothing if the metric has no unit."""
    return " points" if task.is_percentage else ""


def interval(ends: tuple[float, float] | None, task: TaskResult) -> str:
    """An interval of differences, for example "+2.1 to +9.8"."""
    return NOTHING if ends is None else " to ".join(signed(end, task) for end in ends)


def rounded(number: float) -> str:
    """A count with three digits, for example "1.35B"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, for example "1 seed" or "3 seeds"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """Items as prose, for example "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
