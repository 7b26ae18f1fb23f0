"""The curves of a report: loss while pretraining, on held-out text, and while finetuning."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pause_megatron.report.cells import Cell
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.drawing import Line
from pause_megatron.report.figures import MODEL_COLORS, OTHER_COLORS, Figure, color_of, line_figure, slug
from pause_megatron.report.labels import run_label, setting_label
from pause_megatron.report.pretraining import text_kind, validation_sets
from pause_megatron.report.records import FinetuneStep, PretrainRun

MOST_POINTS = 300
"""Points of a curve; longer ones are drawn as means over equal stretches."""


def training_figures(runs: tuple[PretrainRun, ...]) -> list[Figure]:
    """Training loss of all runs over iterations, and over the real tokens seen, of which a pause model has fewer."""
    if not runs:
        return []
    figures = []
    for field, words in (("iteration", "iterations"), ("real_tokens", "real tokens seen")):
        lines = [
            thinned(
                run_label(run, runs),
                color,
                [float(getattr(record, field)) for record in run.train],
                [record.loss for record in run.train],
            )
            for run, color in zip(runs, _run_colors(runs), strict=True)
        ]
        figures.append(
            line_figure(
                name=f"pretraining-{slug(words)}",
                title=f"Training loss over {words}",
                caption="Cross-entropy on real targets, in nats.",
                lines=lines,
                x_label=words.capitalize(),
                y_label="Loss",
            )
        )
    return figures


def validation_figures(runs: tuple[PretrainRun, ...]) -> list[Figure]:
    """Validation loss of all runs, a chart for each held-out dataset."""
    figures = []
    for dataset, pauses in validation_sets(runs).items():
        lines = []
        for run, color in zip(runs, _run_colors(runs), strict=True):
            records = [record for record in run.validation if record.dataset == dataset]
            if records:
                x, y = [float(record.iteration) for record in records], [record.loss for record in records]
                lines.append(thinned(run_label(run, runs), color, x, y))
        figures.append(
            line_figure(
                name=f"validation-{slug(dataset)}",
                title=f"Validation on {text_kind(pauses)}",
                caption=f"Held-out dataset {dataset}; real targets only.",
                lines=lines,
                x_label="Iterations",
                y_label="Loss",
            )
        )
    return figures


def finetuning_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Finetuning loss, a chart for each task and a line for each finetuned model whose curve was found."""
    figures = []
    for task in tasks:
        curves: dict[tuple[str, int | None, tuple[FinetuneStep, ...]], Cell] = {}
        for cell in task.cells:
            for evaluation in cell.evaluations:
                if evaluation.finetuning_curve:
                    curves.setdefault((cell.setting.model, evaluation.seed, evaluation.finetuning_curve), cell)
        lines = [
            thinned(
                setting_label(cell.setting, tasks),
                color_of(cell),
                [float(step.step) for step in curve],
                [step.loss for step in curve],
            )
            for (_, _, curve), cell in curves.items()
        ]
        if lines:
            figures.append(
                line_figure(
                    name=f"finetuning-{slug(task.name)}",
                    title=f"Finetuning loss on {task.name}",
                    caption="Loss on the target only; a line for each finetuning seed.",
                    lines=lines,
                    x_label="Steps",
                    y_label="Loss",
                )
            )
    return figures


def thinned(label: str, color: str, x: Sequence[float], y: Sequence[float]) -> Line:
    """A curve with at most :data:`MOST_POINTS` points, each the mean of its stretch."""
    stretch = -(-len(x) // MOST_POINTS)
    starts = range(0, len(x), stretch)
    return Line(
        label=label,
        color=color,
        x=tuple(statistics.fmean(x[start : start + stretch]) for start in starts),
        y=tuple(statistics.fmean(y[start : start + stretch]) for start in starts),
    )


def _run_colors(runs: tuple[PretrainRun, ...]) -> list[str]:
    """The kind's colour for the first run of its kind, further colours for the others."""
    colors, spare = [], list(OTHER_COLORS)
    for run in runs:
        color = MODEL_COLORS["stdpt" if run.is_standard else "pausept"]
        colors.append(color if color not in colors else spare.pop(0) if spare else OTHER_COLORS[-1])
    return colors
