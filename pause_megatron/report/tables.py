"""The tables of evaluation results, as text in cells: rendered by ``page``, written out in report.json by ``write``."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pause_megatron.report.cells import Cell
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.labels import (
    NOTHING,
    counted,
    metric_label,
    model_label,
    pauses_kind,
    pauses_label,
    setting_label,
    signed,
    value,
    verdict,
    whole,
    with_error,
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell of a table: its text, a smaller second line, and for a row's name the model its colour stands for."""

    text: str
    note: str = ""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows."""

    name: str
    caption: str
    columns: tuple[str, ...]
    words: tuple[str, ...] = ()
    """The columns that hold words rather than numbers; the first always does."""
    rows: tuple[tuple[Entry, ...], ...]


def variants_table(tasks: Sequence[TaskResult]) -> Table:
    """The four variants (rows) on every task (columns), each pausing at inference as often as in finetuning.

    A variant takes several rows where it was finetuned with several M_ft: none is picked out as the best.
    """
    cells = sorted((cell for task in tasks for cell in task.matched), key=lambda cell: cell.setting.order)
    models = {setting_label(cell.setting, tasks): cell.setting.model for cell in cells}
    rows = [
        (Entry(text=label, model=model), *(_variant_entry(task, label, tasks) for task in tasks))
        for label, model in models.items()
    ]
    return Table(
        name="variants",
        caption="Mean ± standard error, M_inf = M_ft. The standard error covers the choice of test items and, with"
        " several seeds, the scatter of finetuning (s.d.: standard deviation over seeds).",
        columns=("Variant", *(f"{task.name} ({metric_label(task)})" for task in tasks)),
        rows=tuple(rows),
    )


def settings_table(tasks: Sequence[TaskResult]) -> Table:
    """Every setting that was measured, M_inf other than M_ft included, with its difference from StdPT_StdFT."""
    return Table(
        name="settings",
        caption="Every setting measured; differences ± standard error are from StdPT_StdFT on the same task, called"
        " higher or lower where their 95 % interval leaves out zero. Where results list all test items, the error of a"
        " difference is taken item by item.",
        columns=("Variant", "Task", "M_ft", "M_inf", "Pauses", "Prefix", "Seeds", "Samples", "Value", "Difference"),
        words=("Task", "Pauses", "Prefix"),
        rows=tuple(_settings_row(task, cell) for task in tasks for cell in task.cells),
    )


def metrics_table(tasks: Sequence[TaskResult]) -> Table | None:
    """The metrics beside the primary ones, as means over seeds; None where there are none."""
    rows = [row for task in tasks for cell in task.cells for row in _metrics_rows(task, cell)]
    if not rows:
        return None
    return Table(
        name="metrics",
        caption="Metrics beside the primary one, in the evaluation's own unit; means over seeds.",
        columns=("Variant", "Task", "M_ft", "M_inf", "Seeds", "Metric", "Value"),
        words=("Task", "Metric"),
        rows=tuple(rows),
    )


def _variant_entry(task: TaskResult, label: str, tasks: Sequence[TaskResult]) -> Entry:
    cell = next((cell for cell in task.matched if setting_label(cell.setting, tasks) == label), None)
    if cell is None:
        return Entry(text=NOTHING)
    facts = [f"M_ft {pauses_label(cell.setting)}"] if cell.setting.num_pauses_ft and "M_ft" not in label else []
    facts += [f"n {cell.num_samples:,}", counted(cell.seeds, "seed")]
    if cell.deviation is not None:
        facts.append(f"s.d. {value(cell.deviation, task)}")
    return Entry(text=with_error(cell, task), note=", ".join(facts))


def _settings_row(task: TaskResult, cell: Cell) -> tuple[Entry, ...]:
    baseline = task.baseline_of(cell)
    difference = None if baseline is None else cell.minus(baseline)
    setting = cell.setting
    scatter = "" if cell.deviation is None else f"s.d. {value(cell.deviation, task)}"
    return (
        model_entry(cell),
        Entry(text=task.name, note=metric_label(task)),
        *entries(
            pauses_label(setting),
            str(setting.num_pauses_inf),
            pauses_kind(setting),
            setting.prefix_attention,
            str(cell.seeds),
            whole(cell.num_samples),
        ),
        Entry(text=with_error(cell, task), note=scatter),
        Entry(text=NOTHING) if difference is None else Entry(text=signed(difference, task), note=verdict(difference)),
    )


def _metrics_rows(task: TaskResult, cell: Cell) -> Iterator[tuple[Entry, ...]]:
    setting = cell.setting
    names = {name for evaluation in cell.evaluations for name in evaluation.metrics} - {task.metric}
    for name in sorted(names):
        values = [evaluation.metrics[name].value for evaluation in cell.evaluations if name in evaluation.metrics]
        scatter = f"s.d. {statistics.stdev(values):.2g}" if len(values) > 1 else ""
        texts = (task.name, pauses_label(setting), str(setting.num_pauses_inf), str(len(values)), name)
        yield model_entry(cell), *entries(*texts), Entry(text=f"{statistics.fmean(values):.4g}", note=scatter)


def model_entry(cell: Cell, label: str | None = None) -> Entry:
    """A row's name: the cell's model, or ``label``, with the model's colour."""
    return Entry(text=label or model_label(cell.setting.model), model=cell.setting.model)


def entries(*texts: str) -> tuple[Entry, ...]:
    """Texts as cells."""
    return tuple(Entry(text=text) for text in texts)
