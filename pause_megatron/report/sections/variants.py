"""The variants: every setting measured, its difference from StdPT_StdFT, and the sentences about them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pause_megatron.records.variants import BASELINE
from pause_megatron.report.drawing import Bar, draw_bars
from pause_megatron.report.elements import (
    WHISKERS,
    Figure,
    Section,
    Table,
    TableCell,
    color_of,
    measurements_csv,
    model_cell,
    scale_of,
    slug,
    text_cells,
    with_rows,
)
from pause_megatron.report.labels import (
    NOTHING,
    amount,
    counted,
    interval,
    listed,
    metric_label,
    model_label,
    pauses_kind,
    pauses_label,
    setting_label,
    signed,
    significance,
    value,
    with_error,
)
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.uncertainty import RESAMPLES, Bootstrap

LABEL = model_label(BASELINE)


def variants_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section; it is empty without results."""
    return Section(
        anchor="variants",
        heading="The variants",
        tables=with_rows(variants_table(tasks), significance_table(tasks)),
        figures=tuple(bar_figures(tasks)),
        folded=with_rows(settings_table(tasks), metrics_table(tasks)),
    )


def variants_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate the four variants (rows) on every task (columns), with M_inf = M_ft.

    A variant has one row for each M_ft that it was finetuned with; none is selected as the best.
    """
    matched = sorted((one for task in tasks for one in task.matched), key=lambda measurement: measurement.setting.order)
    models = {setting_label(measurement.setting, tasks): measurement.setting.model for measurement in matched}
    return Table(
        name="variants",
        caption="Mean ± standard error, with M_inf = M_ft. The standard error covers the choice of test items and, with"
        " several seeds, the scatter of finetuning (s.d.: standard deviation over seeds).",
        columns=("Variant", *(f"{task.name} ({metric_label(task)})" for task in tasks)),
        rows=tuple(
            (TableCell(text=label, model=model), *(_variant_cell(task, label, tasks) for task in tasks))
            for label, model in models.items()
        ),
    )


def _variant_cell(task: TaskResult, label: str, tasks: Sequence[TaskResult]) -> TableCell:
    found = next((one for one in task.matched if setting_label(one.setting, tasks) == label), None)
    if found is None:
        return TableCell(text=NOTHING)
    facts = [f"M_ft {pauses_label(found.setting)}"] if found.setting.num_pauses_ft and "M_ft" not in label else []
    facts += [f"n {found.num_samples:,}", counted(found.seeds, "seed")]
    if found.deviation is not None:
        facts.append(f"s.d. {value(found.deviation, task)}")
    return TableCell(text=with_error(found, task), note=", ".join(facts))


def significance_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate the difference of every matched setting from its baseline."""
    rows = [
        (
            model_cell(measurement, setting_label(measurement.setting, tasks)),
            TableCell(text=task.name, note=metric_label(task)),
            TableCell(text=signed(difference, task), note=significance(difference)),
            *_bootstrap_cells(task, measurement.bootstrap(baseline)),
        )
        for task in tasks
        for measurement, baseline, difference in task.comparisons
    ]
    return Table(
        name="significance",
        caption=f"Differences from {LABEL} with M_inf = M_ft, ± standard error. A difference is significant if its 95 %"
        " interval by Student's t excludes zero. The other columns give 95 % intervals and p by paired bootstrap"
        f" ({RESAMPLES:,} resamples): over test items only, for these finetuned models, and over finetuning seeds too,"
        " which is too narrow for few seeds. No correction is made for the number of comparisons.",
        columns=("Variant", "Task", "Difference", "95 % over items", "95 % over items and seeds", "p"),
        words=("Task",),
        rows=tuple(rows),
    )


def _bootstrap_cells(task: TaskResult, found: Bootstrap | None) -> tuple[TableCell, ...]:
    if found is None:
        return text_cells(NOTHING, NOTHING, NOTHING)
    p_value = f"{found.p_value:.3f}" if found.p_value >= 0.0015 else "<0.002"
    return text_cells(interval(found.over_items, task), interval(found.over_items_and_seeds, task), p_value)


def settings_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate every setting measured, with any M_inf, and its difference from the baseline."""
    return Table(
        name="settings",
        caption=f"Every setting measured; differences ± standard error are from {LABEL} on the same task. A difference"
        " is significant if its 95 % interval excludes zero. If results list all test items, the error of a difference"
        " is computed item by item.",
        columns=("Variant", "Task", "M_ft", "M_inf", "Pauses", "Prefix", "Seeds", "Samples", "Value", "Difference"),
        words=("Task", "Pauses", "Prefix"),
        rows=tuple(_settings_row(task, measurement) for task in tasks for measurement in task.measurements),
    )


def _settings_row(task: TaskResult, measurement: Measurement) -> tuple[TableCell, ...]:
    baseline = task.baseline_of(measurement)
    setting = measurement.setting
    scatter = "" if measurement.deviation is None else f"s.d. {value(measurement.deviation, task)}"
    cells = (
        model_cell(measurement),
        TableCell(text=task.name, note=metric_label(task)),
        *text_cells(pauses_label(setting), str(setting.num_pauses_inf), pauses_kind(setting), setting.prefix_attention),
        *text_cells(str(measurement.seeds), f"{measurement.num_samples:,}"),
        TableCell(text=with_error(measurement, task), note=scatter),
    )
    if baseline is None:
        return *cells, TableCell(text=NOTHING)
    difference = measurement.minus(baseline)
    return *cells, TableCell(text=signed(difference, task), note=significance(difference))


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
        texts = (task.name, pauses_label(setting), str(setting.num_pauses_inf), str(len(values)), name)
        mean = TableCell(text=f"{statistics.fmean(values):.4g}", note=scatter)
        yield model_cell(measurement), *text_cells(*texts), mean


def bar_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Draw the variants of each task as bars, with M_inf = M_ft; other placements only if no pauses are appended."""
    return [_bars(task, tasks) for task in tasks if task.matched]


def _bars(task: TaskResult, tasks: Sequence[TaskResult]) -> Figure:
    scale = scale_of(task)
    shown = [one for one in task.matched if one.setting.placement == "append"] or task.matched
    bars = [
        Bar(
            label=setting_label(measurement.setting, tasks),
            color=color_of(measurement),
            length=scale * measurement.mean,
            stderr=None if measurement.stderr is None else scale * measurement.stderr,
            text=with_error(measurement, task),
        )
        for measurement in shown
    ]
    name = f"variants-{slug(task.name)}"
    alt = f"Bar chart of {task.metric} on {task.name}: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    chance_level = None if task.chance_level is None else scale * task.chance_level
    return Figure(
        name=name,
        title=task.name,
        caption=WHISKERS + ("" if chance_level is None else " The dashed line is chance level, the score of guessing."),
        alt=alt,
        picture=draw_bars(name, alt, bars, metric_label(task), chance_level),
        data=measurements_csv(task, shown),
    )


def significance_sentence(tasks: Sequence[TaskResult]) -> str:
    """State how many differences from the baseline there are, and which of them are significant."""
    found = [(task, measurement, difference) for task in tasks for measurement, _, difference in task.comparisons]
    if not found:
        return f"No task has results of both {LABEL} and another variant, so there are no differences to report."
    significant = [one for one in found if one[2].is_significant]
    if not significant:
        if len(found) == 1:
            return f"The only difference from {LABEL} is not significant (95 %)."
        return f"None of the {len(found)} differences from {LABEL} is significant (95 %)."
    named = [f"{setting_label(measurement.setting, tasks)} on {task.name} ({amount(difference, task)})"
             for task, measurement, difference in significant]  # fmt: skip
    rest = len(found) - len(significant)
    ending = "" if not rest else "; the other is not" if rest == 1 else f"; the other {rest} are not"
    return (
        f"Of {counted(len(found), 'difference')} from {LABEL}, {len(significant)}"
        f" {'is' if len(significant) == 1 else 'are'} significant (95 %): {listed(named)}{ending}."
    )


def task_sentence(task: TaskResult, tasks: Sequence[TaskResult]) -> str:
    """State the score of each baseline of a task, and the difference of every other variant from it."""
    direction = "" if task.higher_is_better else ", lower is better"
    if not task.baselines:
        found = listed([f"{setting_label(one.setting, tasks)} {amount(one, task)}" for one in task.measurements])
        return f"{task.name} ({task.metric}{direction}): {found}. There is no result of {LABEL} to compare with."
    sentences = []
    for baseline in task.baselines.values():
        sentences.append(
            f"{setting_label(baseline.setting, tasks)} reached {amount(baseline, task)} on"
            f" {counted(baseline.num_samples, 'test item')} with {counted(baseline.seeds, 'finetuning seed')}."
        )
        sentences += [
            f"{setting_label(measurement.setting, tasks)}: {amount(difference, task)}, {significance(difference)}."
            for measurement, compared_with, difference in task.comparisons
            if compared_with is baseline
        ]
    return f"{task.name} ({task.metric}{direction}): {' '.join(sentences)}"
