"""The published numbers: Goyal et al. 2024 (arXiv 2310.02226v3), found for what was measured here.

They stand in ``published.csv``, one a row, in percent. Table 1 has means and standard deviations over five finetuning
runs; what comes from figures was read off their plots, good to about 0.1. ``best`` in place of a number of pauses is
the better of 10 and 50, which is what the paper reports where it does not say. Its "F1" of PhysicalIQA and HellaSwag,
where one of a few choices is picked, is what lm-evaluation-harness calls ``acc``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pause_megatron.report.cells import Cell, Setting

PARAMETERS = {"1b": 1_345_085_440, "130m": 136_237_056}
"""Parameters of the paper's two models (its Table 5)."""
TOLERANCE = 0.05
"""Share of the parameters in which a model may differ and still count as one of that size."""
BEST = ("10", "50")
"""The numbers of pauses of which the paper reports the better."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number, as a share (0 to 1)."""

    value: float
    deviation: float | None
    """Standard deviation over finetuning runs, where it is published."""
    origin: str
    """The table or figure it stands in."""
    size: str
    """The model: a key of :data:`PARAMETERS`."""


def model_size(parameters: int) -> str | None:
    """The paper's model that one of ``parameters`` may be compared with; None for other sizes."""
    for size, published in PARAMETERS.items():
        if abs(parameters / published - 1) <= TOLERANCE:
            return size
    return None


def published_for(cell: Cell, metric: str) -> Published | None:
    """The published number of the same size, task, metric and setting; None where there is none.

    The paper attends the prefix both ways, and its pauses are as many for every example.
    """
    setting = cell.setting
    shapes = [evaluation.architecture for evaluation in cell.evaluations]
    sizes = {None if shape is None else model_size(shape.parameters) for shape in shapes}
    size = sizes.pop()
    if sizes or size is None or setting.prefix_attention != "bidirectional" or setting.fewest_pauses_ft is not None:
        return None
    for row in _rows():
        if (row["size"], row["task"], row["metric"]) == (size, setting.task, metric) and _is_of(row, setting):
            deviation = float(row["deviation"]) / 100 if row["deviation"] else None
            return Published(value=float(row["value"]) / 100, deviation=deviation, origin=row["origin"], size=size)
    return None


def published_metrics(tasks: Iterable[str]) -> dict[str, list[str]]:
    """Task to the metrics of it that have published numbers."""
    found: dict[str, list[str]] = {task: [] for task in tasks}
    for row in _rows():
        metrics = found.get(row["task"])
        if metrics is not None and row["metric"] not in metrics:
            metrics.append(row["metric"])
    return found


def _is_of(row: dict[str, str], setting: Setting) -> bool:
    return (
        row["variant"] == setting.model
        and row["placement"] == setting.placement
        and row["filler"] == (setting.filler or "")
        and _is_number(row["num_pauses_ft"], setting.num_pauses_ft or 0)
        and _is_number(row["num_pauses_inf"], setting.num_pauses_inf)
        and (row["num_pauses_ft"] != "best" or setting.is_matched)
    )


def _is_number(published: str, measured: int) -> bool:
    return str(measured) in BEST if published == "best" else published == str(measured)


@cache
def _rows() -> tuple[dict[str, str], ...]:
    text = files("pause_megatron.report").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
