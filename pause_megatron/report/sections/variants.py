"""The variants: every setting measured, its difference from StdPT_StdFT, and the verdicts."""

import statistics
from collections.abc import Iterator, Sequence

from pause_megatron.records.variants import BASELINE
from pause_megatron.report import elements, labels
from pause_megatron.report.drawing import Bar, draw_bars
from pause_megatron.report.elements import Figure, Section, Table, TableCell
from pause_megatron.report.guessing import guessing
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.verdict_words import comparisons_text, outcome_text, reasons_text, task_outcome_text
from pause_megatron.report.verdicts import Comparison, Verdicts

LABEL = labels.model_label(BASELINE)


def variants_section(tasks: Sequence[TaskResult], verdicts: Verdicts) -> Section:
    """Build the section; it is empty without results."""
    return Section(
        anchor="variants",
        heading="The variants",
        tables=(variants_table(tasks), comparisons_table(verdicts)),
        folded=(settings_table(tasks), metrics_table(tasks)),
    )


def variants_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate the variants with each M_ft (rows) on every task (columns), with M_inf = M_ft."""
    matched = sorted((one for task in tasks for one in task.matched), key=lambda measurement: measurement.setting.order)
    models = {labels.setting_label(measurement.setting, tasks): measurement.setting.model for measurement in matched}
    return Table(
        name="variants",
        caption="Mean with its 95 % interval, for M_inf = M_ft. The interval covers the choice of test items and, with"
        " several seeds, the scatter of finetuning (s.d.: standard deviation over seeds). Intervals that overlap do not"
        " mean that there is no difference.",
        columns=("Variant", *(f"{task.name} ({labels.metric_label(task)})" for task in tasks)),
        rows=tuple(
            (TableCell(text=label, model=model), *(_variant_cell(task, label, tasks) for task in tasks))
            for label, model in models.items()
        ),
    )


def _variant_cell(task: TaskResult, label: str, tasks: Sequence[TaskResult]) -> TableCell:
    found = next((one for one in task.matched if labels.setting_label(one.setting, tasks) == label), None)
    if found is None:
        return TableCell(text=labels.NOTHING)
    facts = [f"n {found.num_samples:,}", labels.counted(found.seeds, "seed")]
    if found.setting.num_pauses_ft and "M_ft" not in label:
        facts.insert(0, f"M_ft {labels.pauses_label(found.setting)}")
    if found.deviation is not None:
        facts.append(f"s.d. {labels.value(found.deviation, task)}")
    return TableCell(text=labels.with_interval(found, task), note=", ".join(facts))


def verdicts_table(verdicts: Verdicts) -> Table:
    """Tabulate the verdict of each task, with those of its variants or the reasons why they cannot be judged."""
    tasks = [verdict.task for verdict in verdicts.tasks]
    return Table(
        name="verdicts",
        caption=f"Verdict of each task, from comparisons of its variants with {LABEL}.",
        columns=("Task", "Verdict", "Variants"),
        words=("Verdict", "Variants"),
        rows=tuple(
            elements.text_cells(one.task.name, task_outcome_text(one), comparisons_text(one, tasks))
            for one in verdicts.tasks
        ),
    )


def comparisons_table(verdicts: Verdicts) -> Table:
    """Tabulate difference, interval, p and verdict of every comparison with a baseline."""
    tasks = [verdict.task for verdict in verdicts.tasks]
    return Table(
        name="comparisons",
        caption=f"Differences from {LABEL} with M_inf = M_ft. {_test(verdicts)}",
        columns=("Variant", "Task", "Difference", "95 % interval", "p", "Verdict"),
        words=("Task", "Verdict"),
        rows=tuple(_comparison_row(one, tasks) for verdict in verdicts.tasks for one in verdict.comparisons),
    )


def _test(verdicts: Verdicts) -> str:
    if not verdicts.tested:
        return "None of them could be tested."
    several = f" after Holm's correction for {verdicts.tested} comparisons; p and interval include it"
    correction = several if verdicts.tested > 1 else ""
    return (
        "A variant helps or hurts if Student's t over test items and seeds and an exact test over test items both"
        f" reject at the 5 % level{correction}. If they do not and the interval is narrow,"
        " no difference is larger than its wider end. A difference that cannot be judged for another reason has no"
        " interval."
    )


def _comparison_row(one: Comparison, tasks: Sequence[TaskResult]) -> tuple[TableCell, ...]:
    shown = one.is_shown and one.test is not None
    p_value = one.test.p_value if one.test is not None else 1.0
    return (
        elements.model_cell(one.measurement, labels.setting_label(one.measurement.setting, tasks)),
        TableCell(text=one.task.name, note=labels.metric_label(one.task)),
        *elements.text_cells(
            labels.signed(one.difference.value, one.task),
            labels.interval(one.interval, one.task) if shown else labels.NOTHING,
            labels.NOTHING if not shown else f"{p_value:.3f}" if p_value >= 0.0005 else "<0.001",
        ),
        TableCell(text=outcome_text(one), note=reasons_text(one.reasons, one.task, tasks)),
    )


def settings_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate every setting measured, with any M_inf, and its difference from the baseline."""
    return Table(
        name="settings",
        caption=f"Every setting measured; means with 95 % intervals, and differences from {LABEL} on the same task."
        f" {elements.UNTESTED}",
        columns=("Variant", "Task", "M_ft", "M_inf", "Pauses", "Prefix", "Seeds", "Samples", "Value", "Difference"),
        words=("Task", "Pauses", "Prefix"),
        rows=tuple(_settings_row(task, measurement) for task in tasks for measurement in task.measurements),
    )


def _settings_row(task: TaskResult, measurement: Measurement) -> tuple[TableCell, ...]:
    baseline = task.baseline_of(measurement)
    setting = measurement.setting
    scatter = "" if measurement.deviation is None else f"s.d. {labels.value(measurement.deviation, task)}"
    cells = (
        elements.model_cell(measurement),
        TableCell(text=task.name, note=labels.metric_label(task)),
        *elements.text_cells(labels.pauses_label(setting), str(setting.num_pauses_inf), labels.pauses_kind(setting)),
        *elements.text_cells(setting.prefix_attention, str(measurement.seeds), f"{measurement.num_samples:,}"),
        TableCell(text=labels.with_interval(measurement, task), note=scatter),
    )
    if baseline is None:
        return *cells, TableCell(text=labels.NOTHING)
    return *cells, TableCell(text=labels.signed(measurement.mean - baseline.mean, task))


def metrics_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate the metrics other than the primary ones, as means over seeds."""
    rows = [row for task in tasks for measurement in task.measurements for row in _metrics_rows(task, measurement)]
    return Table(
        name="metrics",
        caption="Metrics other than the primary one, in the evaluation's own unit; means over seeds.",
        columns=("Variant", "Task", "M_ft", "M_inf", "Seeds", "Metric", "Value"),
        words=("Task", "Metric"),
        rows=tuple(rows),
    )


def _metrics_rows(task: TaskResult, measurement: Measurement) -> Iterator[tuple[TableCell, ...]]:
    setting = measurement.setting
    metrics = [result.record.metrics for result in measurement.results]
    for name in sorted({name for one in metrics for name in one} - {task.metric}):
        values = [one[name].value for one in metrics if name in one]
        scatter = f"s.d. {statistics.stdev(values):.2g}" if len(values) > 1 else ""
        texts = (task.name, labels.pauses_label(setting), str(setting.num_pauses_inf), str(len(values)), name)
        mean = TableCell(text=f"{statistics.fmean(values):.4g}", note=scatter)
        yield elements.model_cell(measurement), *elements.text_cells(*texts), mean


def bar_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Draw the variants of each task as bars, with M_inf = M_ft; other placements only if no pauses are appended."""
    return [_bars(task, tasks) for task in tasks if task.matched]


def _bars(task: TaskResult, tasks: Sequence[TaskResult]) -> Figure:
    scale = elements.scale_of(task)
    shown = [one for one in task.matched if one.setting.placement == "append"] or task.matched
    bars = [
        Bar(
            label=labels.setting_label(measurement.setting, tasks),
            color=elements.color_of(measurement),
            length=scale * measurement.mean,
            interval=elements.scaled_interval(task, measurement),
            text=labels.value(measurement.mean, task),
        )
        for measurement in shown
    ]
    name = f"variants-{elements.slug(task.name)}"
    alt = f"Bar chart of {task.metric} on {task.name}: " + "; ".join(
        f"{bar.label} {labels.with_interval(one, task)}" for bar, one in zip(bars, shown, strict=True)
    )
    chance_level = None if task.chance_level is None else scale * task.chance_level
    dashed_line = "" if chance_level is None else " The dashed line is chance level, the score of guessing."
    constant = max(guessing(one, task).level for one in shown)
    if constant > (task.chance_level or 0.0):
        dashed_line += f" The best constant answer scores {labels.value(constant, task)}%."
    return Figure(
        name=name,
        title=task.name,
        caption=elements.WHISKERS + dashed_line,
        alt=alt,
        picture=draw_bars(name, alt, bars, labels.metric_label(task), chance_level),
        data=elements.measurements_csv(task, shown),
    )
