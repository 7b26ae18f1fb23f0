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
from pause_megatron.report.labels import NOTHING, rounded
from pause_megatron.report.run_groups import (
    Curve,
    RunGroup,
    group_runs,
    has_repetitions,
    loss_text,
    mean_curve,
    own_text,
)
from pause_megatron.report.sections.loss_curves import loss_figure, means_over_seeds, model_lines

AXES = ("real tokens", "all tokens", "FLOPs")
OWN_TEXT = ", own text"


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
    figures = []
    for axis in known_axes(runs):
        curves = {group.label: mean_curve(_curves(group, axis, dataset)) for group in group_runs(runs)}
        caption = f"Held-out dataset {dataset}; real targets only.{means_over_seeds(runs)}"
        figures.append(
            loss_figure("equal-cost", axis, f"Held-out loss over {axis}", caption, model_lines(curves), axis)
        )
    return figures


def _curves(group: RunGroup, axis: str, dataset: str) -> list[Curve]:
    return [(curve.amounts, curve.losses) for curve in (cost_curve(run, axis, dataset) for run in group.runs)]


def equal_cost_table(runs: tuple[PretrainRun, ...], dataset: str) -> Table:
    """Tabulate the loss of each model at the largest amount that all runs reached.

    On ``dataset``, and on the held-out text of each model's own kind if these are known and differ.
    """
    groups, rows = group_runs(runs), []
    own = [own_text(group.first) for group in groups]
    texts: dict[str, list[str | None]] = {"": [dataset] * len(groups)}
    if None not in own and len(set(own)) > 1:
        texts[OWN_TEXT] = own
    for kind, names in texts.items():
        for axis in known_axes(runs):
            curves = [
                [cost_curve(run, axis, name or "") for run in group.runs]
                for group, name in zip(groups, names, strict=True)
            ]
            ends = [curve.amounts[-1] for found in curves for curve in found if curve.amounts]
            reached = min(ends, default=0.0)
            losses = [[curve.at(reached) for curve in found] for found in curves]
            cells = [NOTHING if None in found else loss_text([each or 0.0 for each in found]) for found in losses]
            rows.append(elements.text_cells(f"Equal {axis}{kind}", rounded(reached), *cells))
    means = " Means over seeds." if has_repetitions(groups) else ""
    return Table(
        name="equal-cost",
        caption=f"Loss on {dataset} at equal cost: at the largest amount that every run reached, interpolated between"
        f" the validations around it. FLOPs are those of training, without recomputation.{means}"
        + (" Own text has the pauses of the model's training text." if len(texts) > 1 else ""),
        columns=("", "Amount", *(group.label for group in groups)),
        rows=tuple(rows),
    )
