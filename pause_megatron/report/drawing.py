"""Draws line and bar charts: SVG for the page, PNG for Markdown. The only module that imports matplotlib.

Charts are small, so that their letters stay readable on a phone; colours are Okabe and Ito's, which people with any
colour vision tell apart. In the SVG, everything that is ink takes the page's text colour, light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pause_megatron.report.labels import rounded

WIDTH_INCHES = 3.9
PLOT_HEIGHT_INCHES = 2.4
LEGEND_ROW_INCHES = 0.17
BAR_INCHES = 0.42
WIDEST_LABEL_OF_TWO = 18
"""Characters of a legend's longest label, up to which two labels fit beside each other."""
MOST_MARKERS = 12
"""Points of a line, up to which each is marked."""
DASHES = ("-", "--", ":", "-.")
PNG_DPI = 200
INK = "#1a1a19"
"""Colour of axes and letters: as it stands in the PNG, replaced by the page's text colour in the SVG."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "pause_megatron",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a line chart."""

    label: str
    color: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    stderr: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar, with its standard error and the text of its value."""

    label: str
    color: str
    length: float
    stderr: float | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn chart: an SVG element to stand in a page, and a PNG file's bytes."""

    svg: str
    png: bytes


def draw_lines(name: str, alt: str, lines: Sequence[Line], x_label: str, y_label: str) -> Picture:
    """Draw a line chart. Lines that share a label share its place in the legend.

    ``name`` prefixes every id of the SVG, so that several can stand in one page; ``alt`` is its text alternative.
    """
    with matplotlib.rc_context(STYLE):
        labels = list(dict.fromkeys(line.label for line in lines))
        columns = 2 if max(map(len, labels)) <= WIDEST_LABEL_OF_TWO else 1
        figure, axes = _canvas(PLOT_HEIGHT_INCHES + LEGEND_ROW_INCHES * -(-len(labels) // columns))
        dashes = _dashes(lines)
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                color=line.color,
                label=line.label,
                linestyle=dashes[line.label],
                linewidth=1.5,
                marker="o" if len(line.x) <= MOST_MARKERS else "",
                markersize=3.5,
            )
            if any(line.stderr):
                errors = [error or 0.0 for error in line.stderr]
                axes.errorbar(line.x, line.y, errors, color=line.color, linewidth=0, elinewidth=0.9, capsize=2)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 5, 10), integer=True))
        axes.xaxis.set_major_formatter(lambda position, _: rounded(position))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=columns)
        return _export(figure, name, alt)


def draw_bars(name: str, alt: str, bars: Sequence[Bar], x_label: str, reference: float | None) -> Picture:
    """Draw horizontal bars from zero, top to bottom, with a dashed line at ``reference`` (chance) if there is one."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(0.9 + BAR_INCHES * len(bars))
        places = range(len(bars))
        axes.barh(places, [bar.length for bar in bars], color=[bar.color for bar in bars], height=0.62)
        for place, bar in zip(places, bars, strict=True):
            if bar.stderr:
                axes.errorbar(bar.length, place, xerr=bar.stderr, color=INK, elinewidth=0.9, capsize=2.5)
            end = max(bar.length + (bar.stderr or 0.0), 0.0)
            axes.annotate(bar.text, (end, place), (5, 0), textcoords="offset points", va="center")
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate("chance", (reference, 1), (0, 3), xycoords=("data", "axes fraction"),
                          textcoords="offset points", ha="center", va="bottom", fontsize=8)  # fmt: skip
        axes.set_yticks(places, [bar.label for bar in bars])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.22)
        axes.set_xlim(left=min([0.0, *(bar.length for bar in bars)]))
        axes.set_xlabel(x_label)
        return _export(figure, name, alt)


def _dashes(lines: Sequence[Line]) -> dict[str, str]:
    """A line style for each label, so that labels of one colour differ."""
    by_color: dict[str, list[str]] = {}
    for line in lines:
        labels = by_color.setdefault(line.color, [])
        if line.label not in labels:
            labels.append(line.label)
    return {label: DASHES[place % len(DASHES)] for labels in by_color.values() for place, label in enumerate(labels)}


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    return figure, figure.add_subplot()


def _export(figure: Figure, name: str, alt: str) -> Picture:
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    return Picture(svg=_embeddable(svg.getvalue(), name, alt), png=png.getvalue())


def _embeddable(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: no prolog, no fixed size, ids of its own, ink in the page's colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    opening, _, rest = svg.partition(">")
    opening = re.sub(r' (width|height|xmlns|xmlns:xlink|version)="[^"]*"', "", opening)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL).replace("xlink:href", "href")
    return f'{opening} role="img" aria-label={quoteattr(alt)}>{rest}'
