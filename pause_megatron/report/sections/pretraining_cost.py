"""Pretraining at equal cost: held-out loss against real tokens, against all tokens, and against FLOPs.

A run with pauses reads fewer real tokens than one without pauses at equal cost, and costs more at equal real tokens.
Which model is better may depend on the axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pause_megatron.records.pretraining import TrainRecord
from pause_megatron.report import elements
from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.elements import Figure, Table
from pause_megatron.report.labels import NOTHING, rounded, run_label
from pause_megatron.report.sections.loss_curves import loss_figure, thinned

AXES = ("real tokens", "all tokens", "FLOPs")


@dataclass(frozen=True, kw_only=True)
class CostCurve:
    """Loss of one run against one amount."""

    amounts: tuple[float, ...]
    """Increasing."""
    losses: tuple[float, ...]

    def at(self, amount: float) -> float | None:
        """Return the loss at ``amount``, interpolated between two validations; None outside of them."""
        if not self.amounts or not self.amounts[0] <= amount <= self.amounts[-1]:
            return None
        return float(np.interp(amount, self.amounts, self.losses))


def cost_curve(run: PretrainRun, axis: str, dataset: str) -> CostCurve:
    """Return the losses of ``run`` on ``dataset`` over the amount ``axis``, one of :data:`AXES`.

    The amount at a validation is interpolated between the training records around it.
    """
    records = [record for record in run.validation if record.dataset == dataset]
    steps, amounts = [0.0], [0.0]
    for record in run.train:
        steps.append(record.iteration)
        amounts.append(_amount(run, record, axis))
    found = np.interp([record.iteration for record in records], steps, amounts)
    return CostCurve(amounts=tuple(found.tolist()), losses=tuple(record.loss for record in records))


def _amount(run: PretrainRun, record: TrainRecord, axis: str) -> float:
    if axis == "FLOPs":
        return float(record.consumed_samples * (run.record.flops_per_sequence or 0))
    return float(record.real_tokens + (record.pause_tokens if axis == "all tokens" else 0))


def known_axes(runs: Sequence[PretrainRun]) -> list[str]:
    """Return the names of the amounts that all ``runs`` know; runs of older versions have no FLOPs."""
    has_flops = all(run.record.flops_per_sequence for run in runs)
    return [axis for axis in AXES if has_flops or axis != "FLOPs"]


def equal_cost_figures(runs: tuple[PretrainRun, ...], dataset: str) -> list[Figure]:
    """Draw the loss on ``dataset`` against each amount."""
    labels, figures = [run_label(run, runs) for run in runs], []
    for axis in known_axes(runs):
        lines = []
        for run, label, color in zip(runs, labels, elements.pretrained_colors(labels), strict=True):
            curve = cost_curve(run, axis, dataset)
            if curve.amounts:
                lines.append(thinned(label, color, curve.amounts, curve.losses))
        caption = f"Held-out dataset {dataset}; real targets only."
        figures.append(loss_figure("equal-cost", axis, f"Held-out loss over {axis}", caption, lines, axis))
    return figures


def equal_cost_table(runs: tuple[PretrainRun, ...], dataset: str) -> Table:
    """Tabulate the loss of each run on ``dataset`` at the largest amount that all runs reached."""
    rows = []
    for axis in known_axes(runs):
        curves = [cost_curve(run, axis, dataset) for run in runs]
        reached = min((curve.amounts[-1] for curve in curves if curve.amounts), default=0.0)
        losses = [curve.at(reached) for curve in curves]
        texts = [NOTHING if loss is None else f"{loss:.4f}" for loss in losses]
        rows.append(elements.text_cells(f"Equal {axis}", rounded(reached), *texts))
    return Table(
        name="equal-cost",
        caption=f"Loss on {dataset} at equal cost: at the largest amount that every run reached, interpolated between"
        " the validations around it. FLOPs are those of training, without recomputation.",
        columns=("", "Amount", *(run_label(run, runs) for run in runs)),
        rows=tuple(rows),
    )
