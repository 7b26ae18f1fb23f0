"""Tables that compare: every variant with StdPT_StdFT, and every number with the published one."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pause_megatron.report.bootstrap import RESAMPLES, Bootstrap, bootstrap
from pause_megatron.report.cells import Cell
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.labels import (
    MINUS,
    NOTHING,
    interval,
    metric_label,
    pauses_kind,
    pauses_label,
    setting_label,
    signed,
    verdict,
)
from pause_megatron.report.published import Published, published_for, published_metrics
from pause_megatron.report.tables import Entry, Table, entries, model_entry


def significance_table(tasks: Sequence[TaskResult]) -> Table | None:
    """Every matched setting against StdPT_StdFT: difference, bootstrap intervals, p; None where there are none."""
    rows = [
        (
            model_entry(cell, setting_label(cell.setting, tasks)),
            Entry(text=task.name, note=metric_label(task)),
            Entry(text=signed(difference, task), note=verdict(difference)),
            *_bootstrap_entries(task, bootstrap(cell, baseline)),
        )
        for task in tasks
        for cell, baseline, difference in task.compared
    ]
    if not rows:
        return None
    return Table(
        name="significance",
        caption="Differences from StdPT_StdFT with M_inf = M_ft, ± standard error, called higher or lower where the"
        " 95 % interval by Student's t leaves out zero. Beside it 95 % intervals and p by paired bootstrap"
        f" ({RESAMPLES:,} resamples): over test items alone, for these very models, and over finetuning seeds too,"
        " which is rather too narrow for few seeds. Nothing is corrected for the number of comparisons.",
        columns=("Variant", "Task", "Difference", "95 % over items", "95 % over items and seeds", "p"),
        words=("Task",),
        rows=tuple(rows),
    )


def _bootstrap_entries(task: TaskResult, found: Bootstrap | None) -> tuple[Entry, ...]:
    if found is None:
        return entries(NOTHING, NOTHING, NOTHING)
    p_value = f"{found.p_value:.3f}" if found.p_value >= 0.0015 else "<0.002"
    return entries(interval(found.over_items, task), interval(found.over_both, task), p_value)


def paper_table(tasks: Sequence[TaskResult]) -> Table | None:
    """Every measurement that has a published counterpart, beside it; None where there are none.

    Differences are from StdPT_StdFT, here from the one measured and there from the published one.
    """
    metrics = published_metrics(task.name for task in tasks)
    rows = [
        row
        for task in tasks
        for metric in metrics[task.name]
        for cell in task.cells
        for row in _paper_row(task, cell, metric)
    ]
    if not rows:
        return None
    return Table(
        name="paper",
        caption="Beside the published numbers of the model of this size (Goyal et al. 2024), in %: mean ± standard"
        " deviation over finetuning seeds, and the difference (Δ) from StdPT_StdFT. Numbers from the paper's figures"
        " are good to about 0.1 and have no deviation; where it names no M_ft, its number is the better of 10 and 50.",
        columns=("Variant", "Task", "M_ft", "M_inf", "Pauses", "Here", "Published", "Δ here", "Δ published", "Source"),
        words=("Task", "Pauses", "Source"),
        rows=tuple(rows),
    )


def _paper_row(task: TaskResult, cell: Cell, metric: str) -> Iterator[tuple[Entry, ...]]:
    published, ours = published_for(cell, metric), _percent(cell, metric)
    if published is None or ours is None:
        return
    baseline = task.baseline_of(cell)
    their_baseline = None if baseline is None else published_for(baseline, metric)
    our_baseline = None if baseline is None else _percent(baseline, metric)
    setting = cell.setting
    yield (
        model_entry(cell),
        Entry(text=task.name, note=metric),
        *entries(pauses_label(setting), str(setting.num_pauses_inf), pauses_kind(setting)),
        *entries(_spread(*ours), _published(published)),
        *entries(
            NOTHING if our_baseline is None else _signed(ours[0] - our_baseline[0]),
            NOTHING if their_baseline is None else _signed(100 * (published.value - their_baseline.value)),
        ),
        Entry(text=published.origin),
    )


def _percent(cell: Cell, metric: str) -> tuple[float, float | None] | None:
    """Mean and standard deviation of ``metric`` over seeds, in percent; None where a result lacks it."""
    values = [100 * found.metrics[metric].value for found in cell.evaluations if metric in found.metrics]
    if len(values) < cell.seeds:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _published(published: Published) -> str:
    return _spread(100 * published.value, None if published.deviation is None else 100 * published.deviation)


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _signed(points: float) -> str:
    return f"{MINUS if points < 0 else '+'}{abs(points):.1f}"
