"""The variants as bars, and what every figure is made of. Others: ``sweeps`` and ``curves``; ``drawing`` draws all."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pause_megatron.report.cells import Cell
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.drawing import Bar, Level, Line, Picture, draw_bars, draw_lines
from pause_megatron.report.labels import pauses_label, setting_label, unit, with_error

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
CELL_COLUMNS = [
    *("task", "metric", "variant", "num_pauses_ft", "num_pauses_inf", "pause_placement", "filler", "prefix_attention"),
    *("seeds", "samples", "mean", "standard_error", "deviation_over_seeds"),
]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart with its words: ``name`` names its files and its anchor, ``data`` is its CSV file's content."""

    name: str
    title: str
    caption: str
    alt: str
    picture: Picture
    data: str

    @property
    def downloads(self) -> dict[str, str]:
        """File name to a ``data:`` address that holds the file, so that a page can offer it and needs no other file."""
        files = {"svg": ("image/svg+xml", self.picture.svg), "csv": ("text/csv", self.data.encode())}
        return {
            f"{self.name}.{suffix}": f"data:{kind};base64,{base64.b64encode(content).decode()}"
            for suffix, (kind, content) in files.items()
        }


def bar_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """The variants of each task as bars, with M_inf = M_ft; pauses that stand elsewhere only if none are appended."""
    return [_bars(task, tasks) for task in tasks if task.matched]


def _bars(task: TaskResult, tasks: Sequence[TaskResult]) -> Figure:
    scale = scale_of(task)
    cells = [cell for cell in task.matched if cell.setting.placement == "append"] or task.matched
    bars = [
        Bar(
            label=setting_label(cell.setting, tasks),
            color=color_of(cell),
            length=scale * cell.mean,
            stderr=None if cell.stderr is None else scale * cell.stderr,
            text=with_error(cell, task),
        )
        for cell in cells
    ]
    name, metric = f"variants-{slug(task.name)}", axis_label(task)
    alt = f"Bar chart of {task.metric} on {task.name}: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    chance = None if task.chance is None else scale * task.chance
    return Figure(
        name=name,
        title=task.name,
        caption="Whiskers are one standard error."
        + ("" if chance is None else " The dashed line is what guessing scores."),
        alt=alt,
        picture=draw_bars(name, alt, bars, metric, chance),
        data=cells_csv(task, cells),
    )


def line_figure(
    *,
    name: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    data: str | None = None,
) -> Figure:
    """A line chart with its data (the points themselves by default), and the ends of its lines as text alternative."""
    ends = [f"{line.label} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines]
    alt = f"Line chart, {y_label} against {x_label}: {'; '.join(ends)}"
    rows = [[line.label, x, y] for line in lines for x, y in zip(line.x, line.y, strict=True)]
    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=alt,
        picture=draw_lines(name, alt, lines, x_label, y_label, levels),
        data=data or _csv(["series", x_label, y_label], rows),
    )


def cells_csv(task: TaskResult, cells: Iterable[Cell]) -> str:
    """Cells as CSV: what they measured, and in the metric's own unit mean, standard error and deviation over seeds."""
    rows = [
        [
            task.name,
            task.metric,
            cell.setting.model,
            pauses_label(cell.setting),
            cell.setting.num_pauses_inf,
            cell.setting.placement,
            cell.setting.filler or "",
            cell.setting.prefix_attention,
            cell.seeds,
            cell.num_samples,
            cell.mean,
            cell.stderr,
            cell.deviation,
        ]
        for cell in cells
    ]
    return _csv(CELL_COLUMNS, rows)


def axis_label(task: TaskResult) -> str:
    """A task's metric with its unit, as in "em (%)"."""
    return f"{task.metric} ({unit(task)})" if unit(task) else task.metric


def scale_of(task: TaskResult) -> float:
    """What a value is multiplied by to be drawn: 100 for a share."""
    return 100.0 if task.is_percentage else 1.0


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
