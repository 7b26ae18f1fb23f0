"""Groups of pretraining runs that train one model from several seeds: their labels, mean losses and mean curves."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.labels import NOTHING, rounded, run_label

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y of a curve; x increases."""


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs of one model that differ in their seed; or a single run."""

    name: str
    """Name of the model, with its size if the report has the model in several sizes; unique in the report."""
    label: str
    """Label in tables and figures: StdPT or PausePT, with the name unless it is the only group of that kind."""
    runs: tuple[PretrainRun, ...]

    @property
    def first(self) -> PretrainRun:
        """The first run, whose configuration the others share."""
        return self.runs[0]

    def losses(self, dataset: str) -> list[float]:
        """Return the loss of each run at its last validation on ``dataset``; runs without one are left out."""
        found = [run.last_validation(dataset) for run in self.runs]
        return [record.loss for record in found if record is not None]


def group_runs(runs: Sequence[PretrainRun]) -> list[RunGroup]:
    """Group runs by model and size, in the order of the first run of each.

    Runs of equal or unknown seeds are not repetitions of one another: each is then a group with the run's name.
    """
    found: dict[tuple[str, int, str], list[PretrainRun]] = {}
    for run in runs:
        found.setdefault((run.record.model, run.record.parameters, run.record.dataset.strategy), []).append(run)
    groups: list[tuple[str, tuple[PretrainRun, ...]]] = []
    names = [model for model, *_ in found]
    for (model, parameters, _), own in found.items():
        seeds = {run.record.seed for run in own}
        if len(own) > 1 and (None in seeds or len(seeds) < len(own)):
            groups += [(run_label(run, tuple(runs)).partition(" ")[2] or run.record.name, (run,)) for run in own]
        else:
            groups.append((f"{model} ({rounded(parameters)})" if names.count(model) > 1 else model, tuple(own)))
    return [
        RunGroup(name=name, label=_label(own, groups, tuple(runs)) or f"{_kind(own[0])} {name}", runs=own)
        for name, own in groups
    ]


def _kind(run: PretrainRun) -> str:
    return "StdPT" if run.is_standard else "PausePT"


def _label(
    own: tuple[PretrainRun, ...], groups: Sequence[tuple[str, tuple[PretrainRun, ...]]], runs: tuple[PretrainRun, ...]
) -> str | None:
    """Return the label of a single run, or of the only group of its kind; None for other groups."""
    if len(own) == 1:
        return run_label(own[0], runs)
    alike = [others for _, others in groups if others[0].is_standard == own[0].is_standard]
    return _kind(own[0]) if len(alike) == 1 else None


def has_repetitions(groups: Sequence[RunGroup]) -> bool:
    """Whether some model has several runs, so that tables and figures show means over seeds."""
    return any(len(group.runs) > 1 for group in groups)


def scatter(values: Sequence[float], digits: int) -> str:
    """Return the standard deviation of several values as a note, e.g. "s.d. 0.006, 3 seeds"; nothing for one."""
    return f"s.d. {statistics.stdev(values):.{digits}f}, {len(values)} seeds" if len(values) > 1 else ""


def facts(texts: Sequence[str]) -> str:
    """Return a fact of all runs of a group: once if they agree, else as a list in the order of the runs."""
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of several curves at the points of the first, as far as all of them reach.

    Other curves are interpolated, because runs with other seeds count slightly different tokens. Empty if one is.
    """
    if len(curves) == 1 or any(not len(x) for x, _ in curves):
        return curves[0] if len(curves) == 1 else ((), ())
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    points = sorted({*(point for point in curves[0][0] if start < point < end), start, end}) if start <= end else []
    means = np.mean([np.interp(points, x, y) for x, y in curves], axis=0) if points else np.empty(0)
    return points, means.tolist()


def own_text(run: PretrainRun) -> str | None:
    """Return the held-out dataset that has the pauses of the run's training data; None if it cannot be told.

    Of several with the same pause strategy, it is the one with the name of the training data after "train-", as in a
    study: ``validation-sequence-0.1`` for ``train-sequence-0.1``.
    """
    names = {record.dataset for record in run.validation if record.pauses == run.record.dataset.strategy}
    if len(names) > 1:
        ends = [PurePath(folder.folder).name.partition("train-")[2] for folder in run.record.dataset.folders]
        names = {name for name in names if all(end and name.endswith(f"-{end}") for end in ends)}
    return names.pop() if len(names) == 1 else None


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite if it overflows."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else math.inf


def loss_text(losses: Sequence[float]) -> str:
    """Return a mean loss with four digits; a dash without any."""
    return f"{statistics.fmean(losses):.4f}" if losses else NOTHING
