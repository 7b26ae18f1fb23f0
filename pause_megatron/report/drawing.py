"""Draws line charts, bar charts and heat maps, as SVG and PNG. The only module that imports matplotlib.

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
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
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
LEVEL_DASHES = ((0, (5, 3)), (0, (1, 2)))
TILE_INCHES = 0.36
LIGHT_TILE = 0.55
"""Of a heat map's scale: tiles above it are light enough for black letters."""
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
class Tile:
    """One tile of a heat map, by the places of its row and column. A framed one is drawn with a frame around it."""

    row: int
    column: int
    value: float
    text: str
    framed: bool = False


@dataclass(frozen=True, kw_only=True)
class Level:
    """A value that lines are to be seen against, drawn as a thin line across."""

    label: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn chart: an SVG element to stand in a page, and the bytes of an SVG file and of a PNG file."""

    element: str
    svg: bytes
    png: bytes


def draw_lines(
    name: str, alt: str, lines: Sequence[Line], x_label: str, y_label: str, levels: Sequence[Level] = ()
) -> Picture:
    """Draw a line chart. Lines that share a label share its place in the legend.

    ``name`` prefixes every id of the SVG, so that several can stand in one page; ``alt`` is its text alternative.
    """
    with matplotlib.rc_context(STYLE):
        labels = list(dict.fromkeys([line.label for line in lines] + [level.label for level in levels]))
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
        for level, dashes_of in zip(levels, LEVEL_DASHES, strict=False):
            axes.axhline(level.value, color=INK, linewidth=0.9, linestyle=dashes_of, label=level.label)
        whole = all(place.is_integer() for line in lines for place in line.x)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 5, 10), integer=whole))
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


def draw_heat_map(
    name: str, alt: str, tiles: Sequence[Tile], rows: Sequence[str], columns: Sequence[str], x_label: str, y_label: str
) -> Picture:
    """Draw tiles on a grid of ``rows`` (from below) and ``columns``, darker for smaller values, each with its text.

    The colours are cividis, whose lightness alone gives the order, so that no colour vision is asked for.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(0.8 + TILE_INCHES * len(rows))
        values = [tile.value for tile in tiles]
        scale = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
        for tile in tiles:
            color = matplotlib.colormaps["cividis"](scale(tile.value))
            corner = tile.column - 0.5, tile.row - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="none"))
            ink = "#000000" if scale(tile.value) > LIGHT_TILE else "#ffffff"
            axes.annotate(tile.text, (tile.column, tile.row), ha="center", va="center", color=ink)
            if tile.framed:
                inner = tile.column - 0.46, tile.row - 0.44
                axes.add_patch(Rectangle(inner, 0.92, 0.88, fill=False, edgecolor=ink, linewidth=1.2))
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(-0.5, len(rows) - 0.5)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
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
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for both files
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    text = svg.getvalue()
    return Picture(element=_embeddable(text, name, alt), svg=text.encode(), png=png.getvalue())


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
