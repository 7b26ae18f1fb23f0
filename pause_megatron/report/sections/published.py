"""Comparison with the published numbers of Goyal et al. 2024 (arXiv 2310.02226v3), and results of later papers.

A model is compared with the paper's model of the same depth and width. The number of parameters would depend on the
vocabulary: a model of the paper's 12 layers of width 768 has 136M parameters with the paper's vocabulary, 164M with
GPT-2's and 284M with Llama 3's.

``published.csv`` has one number in each row, in percent. Table 1 has means and standard deviations over five finetuning
runs; numbers from figures were read off the plots, with a precision of about 0.1. ``best`` as the number of pauses
means the better of 10 and 50, which the paper reports if it does not give the number. Its "F1" of PhysicalIQA and
HellaSwag, which are multiple choice, is ``acc`` in lm-evaluation-harness. ``later_results.csv`` has one result of a
later paper in each row, with its source.
"""

import csv
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pause_megatron.records.evaluation import Architecture
from pause_megatron.report.elements import Section, Table, TableCell, model_cell, text_cells
from pause_megatron.report.labels import MINUS, NOTHING, pauses_kind, pauses_label
from pause_megatron.report.measured_settings import Setting
from pause_megatron.report.measurements import Measurement, TaskResult

PARAMETERS = {"1b": 1_345_085_440, "130m": 136_237_056}  # parameters of the paper's two models (its Table 5)
SHAPES = {(24, 2048): "1b", (12, 768): "130m"}  # the same models by layers and width
BEST = ("10", "50")  # numbers of pauses that ``best`` was chosen from


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number, in percent."""

    value: float
    deviation: float | None
    """Standard deviation over finetuning runs; None if it is not published."""
    origin: str
    """Table or figure of the paper."""


def model_size(architecture: Architecture) -> str | None:
    """Return the paper's model of the same depth and width; None if there is none."""
    return SHAPES.get((architecture.num_layers, architecture.hidden_size))


def published_for(measurement: Measurement, metric: str) -> Published | None:
    """Return the published number of the same setting, if any.

    The paper has bidirectional prefixes, fixed M_ft, and no loss at pauses.
    """
    setting = measurement.setting
    sizes = {model_size(result.record.architecture) for result in measurement.results}
    size = sizes.pop()
    as_published = (
        setting.prefix_attention == "bidirectional"
        and setting.min_num_pauses_ft is setting.hint_weight is setting.filler_ft is None
        and not (setting.repeats or setting.repeats_ft)
    )
    if sizes or size is None or not as_published:
        return None
    for row in _read("published.csv"):
        if (row["size"], row["task"], row["metric"]) == (size, setting.task, metric) and _matches(row, setting):
            deviation = float(row["deviation"]) if row["deviation"] else None
            return Published(value=float(row["value"]), deviation=deviation, origin=row["origin"])
    return None


def published_metrics(task: str) -> list[str]:
    """Return the metrics of ``task`` that have published numbers."""
    return list(dict.fromkeys(row["metric"] for row in _read("published.csv") if row["task"] == task))


def _matches(row: dict[str, str], setting: Setting) -> bool:
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
def _read(name: str) -> tuple[dict[str, str], ...]:
    text = files("pause_megatron.report").joinpath(name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def published_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section: our numbers next to the paper's, if there are any of its settings, and later results."""
    later = (later_results_table(),) if tasks else ()
    return Section(anchor="paper", heading="Published numbers", tables=(published_table(tasks),), folded=later)


def published_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate every measurement that has a published counterpart, next to the published number."""
    rows = [
        row
        for task in tasks
        for metric in published_metrics(task.name)
        for measurement in task.measurements
        for row in _published_row(task, measurement, metric)
    ]
    return Table(
        name="paper",
        caption="Comparison with the published numbers of the model of the same depth and width (Goyal et al. 2024), in"
        " %: mean ± standard deviation over finetuning seeds, and the difference (Δ) from StdPT_StdFT. The vocabulary,"
        " and with it the number of parameters, may differ. Numbers from the paper's figures have a precision of about"
        " 0.1 and no deviation. If the paper gives no M_ft, its number is the better of M_ft 10 and 50.",
        columns=("Variant", "Task", "M_ft", "M_inf", "Pauses", "Here", "Published", "Δ here", "Δ published", "Source"),
        words=("Task", "Pauses", "Source"),
        rows=tuple(rows),
    )


def later_results_table() -> Table:
    """Tabulate results of later papers on pauses."""
    columns = ("Model", "Pretraining", "Pauses", "Task", "Metric", "Without", "With", "Source")
    rows = _read("later_results.csv")
    return Table(
        name="later-results",
        caption="Results of later work on pauses and filler tokens, as their authors report them: their models, data,"
        " and settings differ from those here. A good accuracy is high, and a good perplexity low.",
        columns=columns,
        words=tuple(column for column in columns if column not in ("Without", "With")),
        rows=tuple(text_cells(*(row[column.lower()] or NOTHING for column in columns)) for row in rows),
    )


def _published_row(task: TaskResult, measurement: Measurement, metric: str) -> Iterator[tuple[TableCell, ...]]:
    published, ours = published_for(measurement, metric), _mean_and_deviation(measurement, metric)
    if published is None or ours is None:
        return
    baseline = task.baseline_of(measurement)
    their_baseline = None if baseline is None else published_for(baseline, metric)
    our_baseline = None if baseline is None else _mean_and_deviation(baseline, metric)
    setting = measurement.setting
    yield (
        model_cell(measurement),
        TableCell(text=task.name, note=metric),
        *text_cells(
            pauses_label(setting),
            str(setting.num_pauses_inf),
            pauses_kind(setting),
            _spread(*ours),
            _spread(published.value, published.deviation),
            NOTHING if our_baseline is None else _signed(ours[0] - our_baseline[0]),
            NOTHING if their_baseline is None else _signed(published.value - their_baseline.value),
            published.origin,
        ),
    )


def _mean_and_deviation(measurement: Measurement, metric: str) -> tuple[float, float | None] | None:
    """Mean and standard deviation of ``metric`` over seeds, in percent; None if a result does not have it."""
    metrics = [result.record.metrics for result in measurement.results]
    values = [100 * one[metric].value for one in metrics if metric in one]
    if len(values) < measurement.seeds:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _signed(points: float) -> str:
    return f"{MINUS if points < 0 else '+'}{abs(points):.1f}"
