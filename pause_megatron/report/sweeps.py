"""The figures of what the number of pauses does: curves over M_ft and M_inf, heat maps of both, and score over cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pause_megatron.report.ablations import (
    finetuning_series,
    heat_map_cells,
    inference_series,
    pretrained_model,
    removals,
)
from pause_megatron.report.cells import VARIANTS, Cell
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.cost import cost_series
from pause_megatron.report.drawing import Level, Line, Tile, draw_heat_map
from pause_megatron.report.figures import (
    MODEL_COLORS,
    OTHER_COLORS,
    Figure,
    axis_label,
    cells_csv,
    color_of,
    line_figure,
    scale_of,
    slug,
)
from pause_megatron.report.labels import model_label, pauses_label, series_label, value

WHISKERS = "Whiskers are one standard error."


def inference_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Score against M_inf, a chart for each pretrained model on each task and a line for each finetuned one, where
    several M_inf were measured.
    """
    figures = []
    for task in tasks:
        groups: dict[str, list[list[Cell]]] = {}
        for cells in inference_series(task):
            groups.setdefault(pretrained_model(cells[0].setting), []).append(cells)
        for pretrained, series in groups.items():
            lines = [
                _line(task, series_label(cells[0].setting, task), color_of(cells[0]), cells, _inference_pauses(cells))
                for cells in series
            ]
            figures.append(
                _figure(
                    task,
                    "inference",
                    f"Finetuned models given more or fewer pauses. {WHISKERS}",
                    lines,
                    [cell for cells in series for cell in cells],
                    "M_inf, pauses at inference",
                    pretrained,
                )
            )
    return figures


def finetuning_pauses_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Score against M_ft with M_inf = M_ft, for each task that was finetuned with several numbers of pauses."""
    figures = []
    for task in tasks:
        series = finetuning_series(task)
        if series:
            lines = [
                _line(task, label, color, cells, [float(cell.setting.num_pauses_ft or 0) for cell in cells])
                for (label, cells), color in zip(series.items(), _colors(series), strict=True)
            ]
            figures.append(
                _figure(
                    task,
                    "finetuning-pauses",
                    f"M_inf = M_ft; at 0 stands finetuning without pauses. {WHISKERS}",
                    lines,
                    [cell for cells in series.values() for cell in cells],
                    "M_ft, pauses in finetuning",
                )
            )
    return figures


def heat_maps(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Score over M_ft and M_inf, a map for each pretrained model that was measured at several of both."""
    return [_heat_map(task, pretrained, cells) for task in tasks for pretrained, cells in heat_map_cells(task).items()]


def cost_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Score against the cost of reading the prefix, for each task whose results say their model's shape."""
    figures = []
    for task in tasks:
        series = cost_series(task)
        if series:
            lines = [
                _line(task, label, color, [cell for cell, _ in points], [cost for _, cost in points])
                for (label, points), color in zip(series.items(), _colors(series), strict=True)
            ]
            figures.append(
                _figure(
                    task,
                    "cost",
                    f"M_inf = M_ft: points above each other cost the same. {WHISKERS}",
                    lines,
                    [cell for points in series.values() for cell, _ in points],
                    "Cost of the prefix, without pauses = 1",
                )
            )
    return figures


def _figure(
    task: TaskResult,
    kind: str,
    caption: str,
    lines: Sequence[Line],
    cells: Sequence[Cell],
    x_label: str,
    pretrained: str | None = None,
) -> Figure:
    return line_figure(
        name="-".join(filter(None, (kind, slug(task.name), pretrained and slug(pretrained)))),
        title=", ".join(filter(None, (task.name, pretrained))),
        caption=caption,
        lines=lines,
        x_label=x_label,
        y_label=axis_label(task),
        levels=_levels(task),
        data=cells_csv(task, cells),
    )


def _line(task: TaskResult, label: str, color: str, cells: Sequence[Cell], x: Sequence[float]) -> Line:
    scale = scale_of(task)
    return Line(
        label=label,
        color=color,
        x=tuple(x),
        y=tuple(scale * cell.mean for cell in cells),
        stderr=tuple(None if cell.stderr is None else scale * cell.stderr for cell in cells),
    )


def _levels(task: TaskResult) -> list[Level]:
    """What every curve is to be seen against: StdPT_StdFT, and chance."""
    scale = scale_of(task)
    baseline = next((cell for cell in task.matched if cell.setting.model == VARIANTS[0]), None)
    levels = (
        [] if baseline is None else [Level(label=f"{model_label(VARIANTS[0])}, M_inf 0", value=scale * baseline.mean)]
    )
    return levels + ([] if task.chance is None else [Level(label="chance", value=scale * task.chance)])


def _inference_pauses(cells: Sequence[Cell]) -> list[float]:
    return [float(cell.setting.num_pauses_inf) for cell in cells]


def _colors(labels: Iterable[str]) -> list[str]:
    """The colour of each pretrained model; further ones where a label says more than that."""
    known = {model_label(model).partition(",")[0]: MODEL_COLORS[model] for model in ("stdpt", "pausept")}
    spare = list(OTHER_COLORS)
    return [known.get(label) or (spare.pop(0) if spare else OTHER_COLORS[-1]) for label in labels]


def _heat_map(task: TaskResult, pretrained: str, cells: Sequence[Cell]) -> Figure:
    rows = list(dict.fromkeys(pauses_label(cell.setting) for cell in cells))
    columns = sorted({cell.setting.num_pauses_inf for cell in cells})
    collapsed = {removal.without.setting for removal in removals(task) if removal.is_collapse}
    tiles = [
        Tile(
            row=rows.index(pauses_label(cell.setting)),
            column=columns.index(cell.setting.num_pauses_inf),
            value=cell.mean if task.higher_is_better else -cell.mean,
            text=value(cell.mean, task) + (" ▼" if cell.setting in collapsed else ""),
            framed=cell.setting.is_matched,
        )
        for cell in cells
    ]
    name = f"heat-map-{slug(task.name)}-{slug(pretrained)}"
    told = "; ".join(
        f"M_ft {pauses_label(cell.setting)}, M_inf {cell.setting.num_pauses_inf}: {value(cell.mean, task)}"
        for cell in cells
    )
    alt = f"Heat map of {axis_label(task)} on {task.name} after {pretrained}: {told}"
    texts = [str(column) for column in columns]
    labels = "M_inf, pauses at inference", "M_ft, in finetuning"
    flagged = any(cell.setting in collapsed for cell in cells)
    return Figure(
        name=name,
        title=f"{task.name}, {pretrained}",
        caption=f"{axis_label(task)}; lighter is better, framed where M_inf = M_ft."
        + (" ▼: collapses without pauses." if flagged else ""),
        alt=alt,
        picture=draw_heat_map(name, alt, tiles, rows, texts, *labels),
        data=cells_csv(task, cells),
    )
