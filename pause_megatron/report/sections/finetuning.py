"""Finetuning: the loss curves of the finetuned models."""

from collections.abc import Sequence

from pause_megatron.records.finetuning import FinetuneStepRecord
from pause_megatron.report import elements
from pause_megatron.report.elements import Figure, Section
from pause_megatron.report.labels import setting_label
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.sections.loss_curves import loss_figure, thinned


def finetuning_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section on finetuning; it is empty if no loss curve was found."""
    return Section(anchor="finetuning", heading="Finetuning", figures=tuple(finetuning_figures(tasks)))


def finetuning_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Draw finetuning loss, a chart for each task and a line for each finetuned model."""
    figures = []
    for task in tasks:
        # results of one finetuned model with several M_inf repeat its curve
        curves: dict[tuple[str, int | None, tuple[FinetuneStepRecord, ...]], Measurement] = {}
        for measurement in task.measurements:
            for result in measurement.results:
                if result.finetuning_curve:
                    key = measurement.setting.model, result.record.seed, result.finetuning_curve
                    curves.setdefault(key, measurement)
        lines = []
        for (_, _, curve), measurement in curves.items():
            x, y = [float(step.step) for step in curve], [step.loss for step in curve]
            lines.append(thinned(setting_label(measurement.setting, tasks), elements.color_of(measurement), x, y))
        if lines:
            caption = "Loss on the target only; one line for each finetuning seed."
            title = f"Finetuning loss on {task.name}"
            figures.append(loss_figure("finetuning", task.name, title, caption, lines, "steps"))
    return figures
