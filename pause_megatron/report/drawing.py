"""Line charts, bar charts and heat maps as SVG and PNG. Only this module of the report imports matplotlib.

Charts are small, so that their text is readable on a phone.
"""

import io
import re
from collections.abc import Mapping, Sequence
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
WIDEST_LABEL_OF_TWO = 18  # longest label, in characters, with which a legend has two columns
MOST_MARKERS = 12  # most points of a line that has a marker at each point
DASHES = ("-", "--", ":", "-.")
LEVEL_DASHES = ((0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))  # two baselines and the chance level
NO_LEVELS: Mapping[str, float] = {}
TILE_INCHES = 0.36
LIGHT_TILE = 0.55  # position on a heat map's colour scale above which a tile has black text
PNG_DPI = 200
INK = "#1a1a19"  # in the PNG; the SVG has the page's text colour instead

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
    intervals: tuple[tuple[float, float] | None, ...] = ()
    """Ends of the whisker of each point; None for a point without one."""
    is_dashed: bool = False
    """Whether the line has dashes and lies above the others, so that an equal line below it stays visible."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a bar chart."""

    label: str
    color: str
    length: float
    interval: tuple[float, float] | None
    """Ends of the whisker."""
    text: str
    """The value as text, next to the bar."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile of a heat map, at the given indices of row and column."""

    row: int
    column: int
    value: float
    text: str
    framed: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn chart."""

    element: str
    """SVG element to embed in a page."""
    svg: bytes
    """Content of an SVG file."""
    png: bytes
    """Content of a PNG file."""


def draw_lines(
    name: str,
    alt: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    levels: Mapping[str, float] = NO_LEVELS,
    y_range: tuple[float, float] | None = None,
) -> Picture:
    """Draw a line chart, with horizontal lines at the values of ``levels``, by label; labels are in the legend once.

    The y axis covers ``y_range`` at least. ``name`` prefixes every id of the SVG, so that one page can embed several
    charts; ``alt`` is its text alternative.
    """
    with matplotlib.rc_context(STYLE):
        labels = list(dict.fromkeys([*(line.label for line in lines), *levels]))
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
                zorder=2.5 if line.is_dashed else 2,
            )
            if any(line.intervals):
                ends = [found or (y, y) for found, y in zip(line.intervals, line.y, strict=True)]
                errors = [[y - low for (low, _), y in zip(ends, line.y, strict=True)],
                          [high - y for (_, high), y in zip(ends, line.y, strict=True)]]  # fmt: skip
                axes.errorbar(line.x, line.y, errors, color=line.color, linewidth=0, elinewidth=0.9, capsize=2)
        for (label, level), pattern in zip(levels.items(), LEVEL_DASHES, strict=False):
            axes.axhline(level, color=INK, linewidth=0.9, linestyle=pattern, label=label)
        integer = all(x.is_integer() for line in lines for x in line.x)
        if y_range is not None:
            margin = 0.04 * (y_range[1] - y_range[0])
            axes.set_ylim(min(axes.get_ylim()[0], y_range[0] - margin), max(axes.get_ylim()[1], y_range[1] + margin))
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 5, 10), integer=integer))
        axes.xaxis.set_major_formatter(lambda position, _: rounded(position))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one handle for each label
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=columns)
        return _export(figure, name, alt)


def draw_bars(name: str, alt: str, bars: Sequence[Bar], x_label: str, chance_level: float | None) -> Picture:
    """Draw horizontal bars from zero, the first at the top, and a dashed line at ``chance_level`` if it is known."""
    with matplotlib.rc_context(STYLE):
        return _export(bar_chart(bars, x_label, chance_level), name, alt)


def bar_chart(bars: Sequence[Bar], x_label: str, chance_level: float | None) -> Figure:
    """Lay out the chart of :func:`draw_bars`: values in a column right of the plot, so that no line crosses them."""
    figure, axes = _canvas(0.9 + BAR_INCHES * len(bars))
    positions = range(len(bars))
    axes.barh(positions, [bar.length for bar in bars], color=[bar.color for bar in bars], height=0.62)
    for position, bar in zip(positions, bars, strict=True):
        low, high = bar.interval or (bar.length, bar.length)
        if high > low:
            errors = [[bar.length - low], [high - bar.length]]
            axes.errorbar(bar.length, position, xerr=errors, color=INK, elinewidth=0.9, capsize=2.5)
        axes.annotate(bar.text, (1, position), (6, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center")  # fmt: skip
    if chance_level is not None:
        axes.axvline(chance_level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate("chance level", (chance_level, 1), (0, 3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", va="bottom", fontsize=8)  # fmt: skip
    axes.set_yticks(positions, [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.06)
    axes.set_xlim(left=min([0.0, *((bar.interval or (bar.length,))[0] for bar in bars)]))
    axes.set_xlabel(x_label)
    return figure


def draw_heat_map(
    name: str,
    alt: str,
    tiles: Sequence[Tile],
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
    value_range: tuple[float, float] | None = None,
) -> Picture:
    """Draw tiles on a grid of ``rows`` (the first at the bottom) and ``columns``, darker for smaller values.

    The darkest and the lightest colour are the ends of ``value_range``, by default the smallest and the largest value;
    maps with the same range can be compared. The colours are cividis: lightness increases with the value, so that no
    colour vision is needed.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(0.8 + TILE_INCHES * len(rows))
        values = [tile.value for tile in tiles]
        low, high = value_range or (min(values), max(values))
        scale = Normalize(low, high if high > low else low + 1)
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
    """Choose a dash pattern for each label, so that labels of the same colour differ."""
    by_color: dict[str, list[str]] = {}
    for line in lines:
        labels = by_color.setdefault(line.color, [])
        if line.label not in labels:
            labels.append(line.label)
    found = {label: DASHES[index % len(DASHES)] for labels in by_color.values() for index, label in enumerate(labels)}
    return found | {line.label: DASHES[1] for line in lines if line.is_dashed}


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    return figure, figure.add_subplot()


def _export(figure: Figure, name: str, alt: str) -> Picture:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # one layout for both files
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # the same inputs give the same bytes
    figure.savefig(svg, format="svg", transparent=True, metadata=no_metadata)
    text = svg.getvalue()
    return Picture(element=embeddable(text, name, alt), svg=text.encode(), png=png.getvalue())


def embeddable(svg: str, name: str, alt: str) -> str:
    """Turn an SVG file into an element for a page: no prolog, no fixed size, unique ids, text in the page's colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    opening, _, rest = svg.partition(">")
    opening = re.sub(r' (width|height|xmlns|xmlns:xlink|version)="[^"]*"', "", opening)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL).replace("xlink:href", "href")
    return f'{opening} role="img" aria-label={quoteattr(alt)}>{rest}'
