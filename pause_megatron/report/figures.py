"""The figures of evaluation results, and what every figure is made of. ``curves`` has the others, ``drawing`` draws."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pause_megatron.report.cells import Cell
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.drawing import Bar, Line, Picture, draw_bars, draw_lines
from pause_megatron.report.labels import model_label, setting_label, unit, with_error

MODEL_COLORS = {
    "stdpt_stdft": "#56b4e9",
    "stdpt_pauseft": "#0072b2",
    "pausept_stdft": "#e69f00",
    "pausept_pauseft": "#d55e00",
    "stdpt": "#0072b2",
    "pausept": "#d55e00",
}
"""Okabe and Ito's palette: cool after standard, warm after pause pretraining; deeper after finetuning with pauses."""
OTHER_COLORS = ("#009e73", "#cc79a7", "#999999")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart with its words: ``name`` names its files and its anchor, ``data`` is its CSV file's content."""

    name: str
    title: str
    caption: str
    alt: str
    picture: Picture
    data: str


def bar_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """The variants of each task as bars, with M_inf = M_ft."""
    return [_bars(task, tasks) for task in tasks if task.matched]


def sweep_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Score against the number of pauses at inference, for each task that was measured at several."""
    return [_sweep(task) for task in tasks if any(len(cells) > 1 for cells in _by_model(task).values())]


def _bars(task: TaskResult, tasks: Sequence[TaskResult]) -> Figure:
    scale = 100.0 if task.is_percentage else 1.0
    bars = [
        Bar(
            label=setting_label(cell.setting, tasks),
            color=color_of(cell),
            length=scale * cell.mean,
            stderr=None if cell.stderr is None else scale * cell.stderr,
            text=with_error(cell, task),
        )
        for cell in task.matched
    ]
    name, metric = f"variants-{slug(task.name)}", _axis(task)
    alt = f"Bar chart of {task.metric} on {task.name}: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    chance = None if task.chance is None else scale * task.chance
    rows = [[bar.label, bar.length, bar.stderr] for bar in bars]
    return Figure(
        name=name,
        title=task.name,
        caption="Whiskers are one standard error."
        + ("" if chance is None else " The dashed line is what guessing scores."),
        alt=alt,
        picture=draw_bars(name, alt, bars, metric, chance),
        data=_csv(["variant", metric, "standard_error"], rows),
    )


def _sweep(task: TaskResult) -> Figure:
    scale = 100.0 if task.is_percentage else 1.0
    lines = [
        Line(
            label=label,
            color=color_of(cells[0]),
            x=tuple(float(cell.setting.num_pauses_inf) for cell in cells),
            y=tuple(scale * cell.mean for cell in cells),
            stderr=tuple(None if cell.stderr is None else scale * cell.stderr for cell in cells),
        )
        for label, cells in _by_model(task).items()
    ]
    return line_figure(
        name=f"inference-{slug(task.name)}",
        title=task.name,
        caption="Finetuned models given more or fewer pauses; whiskers are one standard error.",
        lines=lines,
        x_label="M_inf, pauses at inference",
        y_label=_axis(task),
    )


def _by_model(task: TaskResult) -> dict[str, list[Cell]]:
    """Cells that differ in M_inf alone, by a label that names their M_ft."""
    models: dict[str, list[Cell]] = {}
    for cell in task.cells:
        label = model_label(cell.setting.model)
        if cell.setting.num_pauses_ft:
            label += f", M_ft {cell.setting.num_pauses_ft}"
        if cell.setting.prefix_attention != "bidirectional":
            label += f", {cell.setting.prefix_attention} prefix"
        models.setdefault(label, []).append(cell)
    return models


def line_figure(*, name: str, title: str, caption: str, lines: Sequence[Line], x_label: str, y_label: str) -> Figure:
    """A line chart with its data, and the ends of its lines as text alternative."""
    ends = [f"{line.label} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines]
    alt = f"Line chart, {y_label} against {x_label}: {'; '.join(ends)}"
    rows = [[line.label, x, y] for line in lines for x, y in zip(line.x, line.y, strict=True)]
    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=alt,
        picture=draw_lines(name, alt, lines, x_label, y_label),
        data=_csv(["series", x_label, y_label], rows),
    )


def _axis(task: TaskResult) -> str:
    return f"{task.metric} ({unit(task)})" if unit(task) else task.metric


def color_of(cell: Cell) -> str:
    """The colour of a cell's model."""
    return MODEL_COLORS.get(cell.setting.model, OTHER_COLORS[0])


def _csv(header: list[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def slug(name: str) -> str:
    """``name`` as part of a file's name and of an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
