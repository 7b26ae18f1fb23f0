"""Placement of the pauses, and filler tokens in place of them, compared with the usual pauses."""

from collections.abc import Sequence
from dataclasses import replace

from pause_megatron.report.elements import UNTESTED, Section, Table, TableCell, model_cell, text_cells
from pause_megatron.report.labels import (
    NOTHING,
    PLACEMENT_LABELS,
    metric_label,
    pauses_label,
    points,
    shortened,
    signed,
    with_interval,
)
from pause_megatron.report.measured_settings import Setting
from pause_megatron.report.measurements import Measurement, TaskResult


def placement_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section; it is empty if all pauses are appended and none is replaced by a filler."""
    tables = placement_table(tasks), filler_table(tasks)
    return Section(anchor="placements", heading="Placement and fillers", tables=tables)


def placement_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate each placement's score and its difference from appended pauses."""
    measured = [(task, one) for task in tasks for one in task.matched if one.setting.num_pauses_ft]
    placements = [name for name in PLACEMENT_LABELS if any(one.setting.placement == name for _, one in measured)]
    groups: dict[tuple[str, Setting], dict[str, Measurement]] = {}
    for task, measurement in measured:
        key = task.name, replace(measurement.setting, placement_ft="append", placement="append")
        groups.setdefault(key, {})[measurement.setting.placement] = measurement
    by_name = {task.name: task for task in tasks}
    rows = [
        (
            model_cell(next(iter(found.values()))),
            TableCell(text=name, note=metric_label(by_name[name])),
            TableCell(text=pauses_label(setting)),
            *(_compared(found.get(placement), found.get("append"), by_name[name]) for placement in placements),
        )
        for (name, setting), found in groups.items()
        if len(found) > 1
    ]
    return Table(
        name="placements",
        caption="Placement of the pauses, with M_inf = M_ft; below each score its difference from appended pauses. "
        f"{UNTESTED}",
        columns=("Variant", "Task", "M_ft", *(PLACEMENT_LABELS[placement].capitalize() for placement in placements)),
        words=("Task",),
        rows=tuple(rows),
    )


def filler_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate models with other inputs at pauses than in training against the same models with M_inf = M_ft."""
    rows = []
    for task in tasks:
        for measurement in task.measurements:
            setting = measurement.setting
            if not setting.has_own_inputs:
                matched = task.matched_of(measurement)
                row = (
                    model_cell(measurement),
                    TableCell(text=task.name, note=metric_label(task)),
                    *text_cells(pauses_label(setting), NOTHING if matched is None else with_interval(matched, task)),
                    TableCell(text=f"{setting.num_pauses_inf} x {_input(setting)}"),
                    _compared(measurement, matched, task),
                )
                rows.append(row)
    return Table(
        name="fillers",
        caption="Filler tokens in place of pauses, at inference only, compared with the same models with M_inf = M_ft;"
        f" below each score its difference from them. {UNTESTED}",
        columns=("Variant", "Task", "M_ft", "M_inf = M_ft", "Filler", "With filler"),
        words=("Task", "Filler"),
        rows=tuple(rows),
    )


def _input(setting: Setting) -> str:
    if setting.repeats:
        return "the token before"
    return "<pause>" if setting.filler is None else f"'{shortened(setting.filler)}'"


def _compared(measurement: Measurement | None, reference: Measurement | None, task: TaskResult) -> TableCell:
    """A score, and as its note the difference from ``reference``."""
    if measurement is None:
        return TableCell(text=NOTHING)
    if reference is None or measurement is reference:
        return TableCell(text=with_interval(measurement, task))
    note = signed(measurement.mean - reference.mean, task) + points(task)
    return TableCell(text=with_interval(measurement, task), note=note)
