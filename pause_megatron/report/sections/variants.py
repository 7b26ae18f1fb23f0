"""The variants: every setting measured, its difference from StdPT_StdFT, and the sentences about them."""

import statistics
from collections.abc import Iterator, Sequence

from pause_megatron.records.variants import BASELINE
from pause_megatron.report import elements, labels
from pause_megatron.report.drawing import Bar, draw_bars
from pause_megatron.report.elements import Figure, Section, Table, TableCell
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.uncertainty import RESAMPLES, Bootstrap

LABEL = labels.model_label(BASELINE)


def variants_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section; it is empty without results."""
    return Section(
        anchor="variants",
        heading="The variants",
        tables=(variants_table(tasks), significance_table(tasks)),
        figures=tuple(bar_figures(tasks)),
        folded=(settings_table(tasks), metrics_table(tasks)),
    )


def variants_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate the variants with each M_ft (rows) on every task (columns), with M_inf = M_ft."""
    matched = sorted((one for task in tasks for one in task.matched), key=lambda measurement: measurement.setting.order)
    models = {labels.setting_label(measurement.setting, tasks): measurement.setting.model for measurement in matched}
    return Table(
        name="variants",
        caption="Mean ± standard error, with M_inf = M_ft. The standard error covers the choice of test items and, with"
        " several seeds, the scatter of finetuning (s.d.: standard deviation over seeds).",
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
    return TableCell(text=labels.with_error(found, task), note=", ".join(facts))


def significance_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate the difference of every matched setting from its baseline."""
    rows = [
        (
            elements.model_cell(measurement, labels.setting_label(measurement.setting, tasks)),
            TableCell(text=task.name, note=labels.metric_label(task)),
            TableCell(text=labels.signed(difference, task), note=labels.significance(difference)),
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
        return elements.text_cells(labels.NOTHING, labels.NOTHING, labels.NOTHING)
    p_value = f"{found.p_value:.3f}" if found.p_value >= 0.0015 else "<0.002"
    intervals = (labels.interval(ends, task) for ends in (found.over_items, found.over_items_and_seeds))
    return elements.text_cells(*intervals, p_value)


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
    scatter = "" if measurement.deviation is None else f"s.d. {labels.value(measurement.deviation, task)}"
    cells = (
        elements.model_cell(measurement),
        TableCell(text=task.name, note=labels.metric_label(task)),
        *elements.text_cells(labels.pauses_label(setting), str(setting.num_pauses_inf), labels.pauses_kind(setting)),
        *elements.text_cells(setting.prefix_attention, str(measurement.seeds), f"{measurement.num_samples:,}"),
        TableCell(text=labels.with_error(measurement, task), note=scatter),
    )
    if baseline is None:
        return *cells, TableCell(text=labels.NOTHING)
    difference = measurement.minus(baseline)
    return *cells, TableCell(text=labels.signed(difference, task), note=labels.significance(difference))


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
            stderr=None if measurement.stderr is None else scale * measurement.stderr,
            text=labels.with_error(measurement, task),
        )
        for measurement in shown
    ]
    name = f"variants-{elements.slug(task.name)}"
    alt = f"Bar chart of {task.metric} on {task.name}: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    chance_level = None if task.chance_level is None else scale * task.chance_level
    dashed_line = "" if chance_level is None else " The dashed line is chance level, the score of guessing."
    return Figure(
        name=name,
        title=task.name,
        caption=elements.WHISKERS + dashed_line,
        alt=alt,
        picture=draw_bars(name, alt, bars, labels.metric_label(task), chance_level),
        data=elements.measurements_csv(task, shown),
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
    named = [f"{labels.setting_label(measurement.setting, tasks)} on {task.name} ({labels.amount(difference, task)})"
             for task, measurement, difference in significant]  # fmt: skip
    rest = len(found) - len(significant)
    ending = "" if not rest else "; the other is not" if rest == 1 else f"; the other {rest} are not"
    return (
        f"Of {labels.counted(len(found), 'difference')} from {LABEL}, {len(significant)}"
        f" {'is' if len(significant) == 1 else 'are'} significant (95 %): {labels.listed(named)}{ending}."
    )


def task_sentence(task: TaskResult, tasks: Sequence[TaskResult]) -> str:
    """State the score of each baseline of a task, and the difference of every other variant from it."""
    direction = "" if task.higher_is_better else ", lower is better"
    if not task.baselines:
        found = [f"{labels.setting_label(one.setting, tasks)} {labels.amount(one, task)}" for one in task.measurements]
        scores = labels.listed(found)
        return f"{task.name} ({task.metric}{direction}): {scores}. There is no result of {LABEL} to compare with."
    sentences = []
    for baseline in task.baselines.values():
        label, score = labels.setting_label(baseline.setting, tasks), labels.amount(baseline, task)
        items = labels.counted(baseline.num_samples, "test item")
        seeds = labels.counted(baseline.seeds, "finetuning seed")
        sentences.append(f"{label} reached {score} on {items} with {seeds}.")
        for measurement, compared_with, difference in task.comparisons:
            if compared_with is baseline:
                label, outcome = labels.setting_label(measurement.setting, tasks), labels.significance(difference)
                sentences.append(f"{label}: {labels.amount(difference, task)}, {outcome}.")
    return f"{task.name} ({task.metric}{direction}): {' '.join(sentences)}"
