"""Picture of histograms: places of pauses, gaps between them, lengths of runs, and lengths of documents.

A dashed line is the expectation from the settings; colours are Okabe and Ito's. Only this module imports matplotlib.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetManifest
from pause_megatron.preprocess.inspection.measurements import DOCUMENT_BINS, Measurements

PAUSE_COLOR = "#e69f00"
DOCUMENT_COLOR = "#56b4e9"
INK = "#1a1a19"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,
}
_MOST_BARS = 64
_LONGEST_RUN_SHOWN = 8
_SHARE_OF_GAPS_SHOWN = 0.995
_WIDE_RANGE = 50  # ratio of the ends of a logarithmic axis above which only powers of ten have room for labels


def write_picture(path: Path, title: str, manifest: DatasetManifest, found: Measurements) -> None:
    """Draw ``found`` to ``path``; raises :class:`UserError` if its format is unknown or it cannot be written."""
    with matplotlib.rc_context(STYLE):
        panels = [_draw_places, _draw_gaps, _draw_runs, _draw_documents] if manifest.pauses else [_draw_documents]
        rows, columns = (2, 2) if len(panels) > 1 else (1, 1)
        figure = Figure(figsize=(5.2 * columns, 3.4 * rows + 0.5), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        for number, draw in enumerate(panels, start=1):
            draw(figure.add_subplot(rows, columns, number), manifest, found)
        try:
            figure.savefig(path, dpi=150, facecolor="white")
        except (OSError, ValueError) as error:
            raise UserError(f"--histogram {path}: {error}") from error


def _draw_places(axes: Axes, manifest: DatasetManifest, found: Measurements) -> None:
    bars = min(_MOST_BARS, len(found.places))
    edges = np.linspace(0, len(found.places), bars + 1).astype(int)
    tokens, pauses = (np.add.reduceat(counts, edges[:-1]) for counts in (found.places, found.pauses))
    scale = 100 / DOCUMENT_BINS if manifest.strategy == "document" else 1
    axes.stairs(100 * pauses / np.maximum(tokens, 1), edges * scale, fill=True, color=PAUSE_COLOR)
    expected = 100 * manifest.expected_pause_fraction
    axes.axhline(expected, color=INK, linestyle="--", linewidth=1, label=f"expected: {expected:.2f} %")
    axes.set_ylim(0, 1.35 * max(expected, float((100 * pauses / np.maximum(tokens, 1)).max())))
    axes.legend(loc="upper right")
    axes.set_title("Places of pauses")
    axes.set_xlabel("part of the document (%)" if manifest.strategy == "document" else "position in the sequence")
    axes.set_ylabel("tokens that are pauses (%)")


def _draw_gaps(axes: Axes, manifest: DatasetManifest, found: Measurements) -> None:
    total = max(1, int(found.gaps.sum()))
    longest = max(3, int(np.searchsorted(np.cumsum(found.gaps), _SHARE_OF_GAPS_SHOWN * total)))
    gaps = np.arange(longest + 1)
    axes.bar(gaps, 100 * found.gaps[: longest + 1] / total, width=0.9, color=PAUSE_COLOR)
    share = _share_of_gaps(manifest, gaps)
    if share is not None:
        axes.plot(gaps, 100 * share, color=INK, linestyle="--", linewidth=1, label="random placement")
        axes.legend(loc="upper right")
    axes.set_title("Real tokens between a pause and the next")
    hidden = int(found.gaps[longest + 1 :].sum()) / total
    axes.set_xlabel("real tokens between" + (f" (the longest {hidden:.1%} are not shown)" if hidden else ""))
    axes.set_ylabel("gaps (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _share_of_gaps(manifest: DatasetManifest, gaps: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the expected share of each gap length for random placement; None if the placement is fixed."""
    if manifest.strategy == "every":
        return None
    fraction = manifest.expected_pause_fraction
    if manifest.gaps == "repeat":
        return np.asarray(fraction * (1 - fraction) ** gaps, dtype=np.float64)
    after_token = fraction / (1 - fraction)
    return np.where(gaps > 0, after_token * (1 - after_token) ** np.maximum(gaps - 1, 0), np.nan)


def _draw_runs(axes: Axes, manifest: DatasetManifest, found: Measurements) -> None:
    runs = manifest.pause_runs
    total = max(1, runs.total())
    shown = range(1, max(3, min(_LONGEST_RUN_SHOWN, max(runs, default=1))) + 1)
    shares = [100 * runs[length] / total for length in shown]
    bars = axes.bar(shown, shares, width=0.7, color=PAUSE_COLOR)
    axes.bar_label(bars, [f"{share:.3g} %" if share else "none" for share in shares], padding=2, fontsize=9)
    axes.margins(y=0.12)
    axes.set_title("Consecutive pauses")
    axes.set_xlabel(f"pauses in a run (the longest has {max(runs, default=0)})")
    axes.set_ylabel("runs (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_documents(axes: Axes, manifest: DatasetManifest, found: Measurements) -> None:
    inside = manifest.trimmed == "drop"  # text between sequences is missing, so a longer document is never complete
    axes.set_title("Lengths of documents" + (" inside one sequence" if inside else ""))
    axes.set_xlabel("real tokens")
    axes.set_ylabel("documents (%)")
    total = int(found.documents.sum())
    if not total:
        axes.text(0.5, 0.5, "no complete document was read", transform=axes.transAxes, ha="center")
        return
    lengths = np.flatnonzero(found.documents)
    edges = np.unique(np.geomspace(max(1, lengths[0]), lengths[-1] + 1, 41).astype(int))
    counts, _ = np.histogram(lengths, edges, weights=found.documents[lengths])
    axes.stairs(100 * counts / total, edges, fill=True, color=DOCUMENT_COLOR)
    median = found.document_quantile(0.5)
    axes.axvline(median, color=INK, linestyle="--", linewidth=1, label=f"median: {median:,}")
    axes.set_ylim(0, 1.25 * 100 * float(counts.max()) / total)
    axes.set_xscale("log")
    wide = edges[-1] > _WIDE_RANGE * edges[0]
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper right")
