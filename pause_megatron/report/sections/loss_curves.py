"""Loss curves, as the sections on pretraining and on finetuning draw them."""

import statistics
from collections.abc import Mapping, Sequence

from pause_megatron.report import elements
from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.drawing import Line
from pause_megatron.report.elements import Figure
from pause_megatron.report.run_groups import Curve, group_runs, has_repetitions

MOST_POINTS = 300  # points of a curve; longer curves are drawn as means over equal stretches


def loss_figure(kind: str, name: str, title: str, caption: str, lines: Sequence[Line], x: str) -> Figure:
    """Draw ``lines`` over ``x``; ``kind`` and ``name`` make the name of the figure."""
    return elements.line_figure(
        name=f"{kind}-{elements.slug(name)}",
        title=title,
        caption=caption,
        lines=lines,
        x_label=x[0].upper() + x[1:],
        y_label="Loss",
    )


def model_lines(curves: Mapping[str, Curve]) -> list[Line]:
    """Return a line for each pretrained model by its label, each in its colour; models without points have none."""
    colors = elements.pretrained_colors(curves)
    return [
        thinned(label, color, x, y) for (label, (x, y)), color in zip(curves.items(), colors, strict=True) if len(x)
    ]


def means_over_seeds(runs: Sequence[PretrainRun]) -> str:
    """Return the sentence of a caption if lines are means over seeds, else nothing."""
    return " Lines are means over seeds." if has_repetitions(group_runs(runs)) else ""


def thinned(label: str, color: str, x: Sequence[float], y: Sequence[float]) -> Line:
    """Return a curve with at most :data:`MOST_POINTS` points, each the mean of a stretch of equal length."""
    stretch = -(-len(x) // MOST_POINTS)
    starts = range(0, len(x), stretch)
    return Line(
        label=label,
        color=color,
        x=tuple(statistics.fmean(x[start : start + stretch]) for start in starts),
        y=tuple(statistics.fmean(y[start : start + stretch]) for start in starts),
    )
