"""Building blocks of a report's sections: tables, and charts with their data as CSV."""

import base64
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pause_megatron.records.variants import BASELINE
from pause_megatron.report.drawing import NO_LEVELS, Line, Picture, draw_lines, embeddable
from pause_megatron.report.labels import metric_label, model_label, pauses_label, pretrained_label
from pause_megatron.report.measured_settings import MODELS
from pause_megatron.report.measurements import Measurement, TaskResult

MODEL_COLORS = dict(zip(MODELS, ("#56b4e9", "#0072b2", "#e69f00", "#d55e00", "#0072b2", "#d55e00"), strict=True))
"""Okabe and Ito's palette: cool for standard pretraining, warm for pauses; darker for finetuning with pauses."""
OTHER_COLORS = ("#009e73", "#cc79a7", "#999999")
WHISKERS = "Whiskers are 95 % intervals."
UNTESTED = "These differences are not tested, so they support no verdict."


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One cell of a table."""

    text: str
    note: str = ""
    """Smaller second line."""
    model: str = ""
    """For the name of a row: the model that gives the colour."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; its first column names the rows."""

    name: str
    caption: str
    columns: tuple[str, ...]
    words: tuple[str, ...] = ()
    """Columns of words instead of numbers; the first column always holds words."""
    rows: tuple[tuple[TableCell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart with its words."""

    name: str
    """Name of its files and its anchor in the page."""
    title: str
    caption: str
    alt: str
    """Text alternative."""
    picture: Picture
    data: str
    """Content of its CSV file."""

    @property
    def downloads(self) -> dict[str, str]:
        """File name to a ``data:`` URL with the file's content, so that the page needs no other file."""
        files = {"svg": ("image/svg+xml", self.picture.svg), "csv": ("text/csv", self.data.encode())}
        return {
            f"{self.name}.{suffix}": f"data:{kind};base64,{base64.b64encode(content).decode()}"
            for suffix, (kind, content) in files.items()
        }


@dataclass(frozen=True, kw_only=True)
class Section:
    """Tables and figures under one heading; tables without rows are not shown."""

    anchor: str
    heading: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    folded: tuple[Table, ...] = ()
    """Tables that the page shows only on a click."""

    def __bool__(self) -> bool:
        """Whether the section has any content."""
        return bool(self.figures) or any(table.rows for table in (*self.tables, *self.folded))


def with_unique_names(sections: Iterable[Section]) -> tuple[Section, ...]:
    """Return ``sections`` with a number after each figure's name that an earlier figure has: two tasks, one slug."""
    taken: set[str] = set()
    found = []
    for section in sections:
        figures = []
        for figure in section.figures:
            name, number = figure.name, 2
            while name in taken:
                name, number = f"{figure.name}-{number}", number + 1
            taken.add(name)
            element = embeddable(figure.picture.svg.decode(), name, figure.alt)
            figures.append(replace(figure, name=name, picture=replace(figure.picture, element=element)))
        found.append(replace(section, figures=tuple(figures)))
    return tuple(found)


def text_cells(*texts: str) -> tuple[TableCell, ...]:
    """Return one table cell for each text."""
    return tuple(TableCell(text=text) for text in texts)


def model_cell(measurement: Measurement, label: str | None = None) -> TableCell:
    """Return the name of a row: the measurement's model, or ``label``, in the model's colour."""
    model = measurement.setting.model
    return TableCell(text=label or pretrained_label(measurement.setting), model=model)


@dataclass(frozen=True)
class ScoreSeries:
    """Measurements that make one line of a chart."""

    label: str
    color: str
    points: list[tuple[float, Measurement]]
    """Pairs of x and a measurement; its mean is y."""


def score_figure(
    task: TaskResult,
    kind: str,
    caption: str,
    series: Sequence[ScoreSeries],
    x_label: str,
    pretrained: str | None = None,
) -> Figure:
    """Draw a task's metric as lines, with the baselines and the chance level as horizontal lines.

    The figure's name is made of ``kind``, the task and ``pretrained``, if there is a chart for each pretrained model.
    """
    scale = scale_of(task)
    measurements = [measurement for one in series for _, measurement in one.points]
    attentions = {measurement.setting.prefix_attention for measurement in measurements}
    levels = {}
    for attention, baseline in task.baselines.items():
        if attention in attentions:
            suffix = f", {attention} prefix" if len(attentions) > 1 else ""
            levels[f"{model_label(BASELINE)}, M_inf 0{suffix}"] = scale * baseline.mean
    if task.chance_level is not None:
        levels["chance level"] = scale * task.chance_level
    return line_figure(
        name="-".join(slug(part) for part in (kind, task.name, pretrained) if part),
        title=", ".join(filter(None, (task.name, pretrained))),
        caption=caption,
        lines=[_line(one, task) for one in series],
        x_label=x_label,
        y_label=metric_label(task),
        levels=levels,
        data=measurements_csv(task, measurements),
    )


def _line(series: ScoreSeries, task: TaskResult) -> Line:
    measurements = [measurement for _, measurement in series.points]
    return Line(
        label=series.label,
        color=series.color,
        x=tuple(x for x, _ in series.points),
        y=tuple(scale_of(task) * measurement.mean for measurement in measurements),
        intervals=tuple(scaled_interval(task, measurement) for measurement in measurements),
    )


def line_figure(
    *,
    name: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    levels: Mapping[str, float] = NO_LEVELS,
    y_range: tuple[float, float] | None = None,
    data: str | None = None,
) -> Figure:
    """Draw a line chart whose y axis covers ``y_range`` at least.

    Its CSV file is ``data``, by default the points; its text alternative lists their ends.
    """
    ends = [f"{line.label} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines]
    alt = f"Line chart, {y_label} against {x_label}: {'; '.join(ends)}"
    rows = [[line.label, x, y] for line in lines for x, y in zip(line.x, line.y, strict=True)]
    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=alt,
        picture=draw_lines(name, alt, lines, x_label, y_label, levels, y_range),
        data=data or csv_text(["series", x_label, y_label], rows),
    )


def measurements_csv(task: TaskResult, measurements: Iterable[Measurement]) -> str:
    """Return measurements as CSV; mean, error, interval and deviation over seeds are in the metric's own unit."""
    rows = [
        {
            "task": task.name,
            "metric": task.metric,
            "variant": measurement.setting.model,
            "pretrained_model": measurement.results[0].record.pretrained_model,
            "num_pauses_ft": pauses_label(measurement.setting),
            "num_pauses_inf": measurement.setting.num_pauses_inf,
            "pause_placement": measurement.setting.placement,
            "filler": measurement.setting.filler or "",
            "pause_inputs": "repeat" if measurement.setting.repeats else "",
            "prefix_attention": measurement.setting.prefix_attention,
            "seeds": measurement.seeds,
            "pretraining_seeds": measurement.pretraining_seeds,
            "samples": measurement.num_samples,
            "mean": measurement.mean,
            "standard_error": measurement.stderr,
            "low_95": (task.interval(measurement) or (None, None))[0],
            "high_95": (task.interval(measurement) or (None, None))[1],
            "deviation_over_seeds": measurement.deviation,
        }
        for measurement in measurements
    ]
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def csv_text(header: list[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV file as text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_csv_cell(cell) for cell in row] for row in (header, *rows)])
    return text.getvalue()


def _csv_cell(value: object) -> object:
    """Return ``value``; a name that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def scale_of(task: TaskResult) -> float:
    """Return the factor from the metric's unit to the unit of a chart: 100 for a share."""
    return 100.0 if task.is_percentage else 1.0


def scaled_interval(task: TaskResult, measurement: Measurement) -> tuple[float, float] | None:
    """Return the 95 % interval of a measurement in the unit of a chart; None if it is unknown."""
    ends = task.interval(measurement)
    return None if ends is None else (scale_of(task) * ends[0], scale_of(task) * ends[1])


def color_of(measurement: Measurement) -> str:
    """Return the colour of a measurement's model."""
    return MODEL_COLORS.get(measurement.setting.model, OTHER_COLORS[0])


def pretrained_colors(labels: Iterable[str]) -> list[str]:
    """Return a colour for each label of a pretrained model; the first StdPT and the first PausePT have their own."""
    colors, spare = [], list(OTHER_COLORS)
    for label in labels:
        color = MODEL_COLORS["pausept" if label.startswith("PausePT") else "stdpt"]
        colors.append(color if color not in colors else spare.pop(0) if spare else OTHER_COLORS[-1])
    return colors


def slug(name: str) -> str:
    """Return ``name`` as it is used in file names and anchors, at most 80 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80]
