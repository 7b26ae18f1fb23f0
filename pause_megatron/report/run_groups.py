"""Groups of pretraining runs that train one model from several seeds: their labels, mean losses and mean curves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.labels import NOTHING, rounded, run_kind

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
    """Group runs that differ only in their seed, and so are of one model, size and kind of data; in their order.

    Runs of equal or unknown seeds are not repetitions of one another: each is then a group of its own.
    """
    found: dict[tuple[object, ...], list[PretrainRun]] = {}
    for run in runs:
        found.setdefault(_identity(run), []).append(run)
    groups: list[list[PretrainRun]] = []
    for own in found.values():
        seeds = {run.record.seed for run in own}
        repeats = None not in seeds and len(seeds) == len(own)
        groups += [own] if repeats else [[run] for run in own]
    names = _names(groups)
    kinds = [run_kind(own[0]) for own in groups]
    return [
        RunGroup(name=name, label=kind if kinds.count(kind) == 1 else f"{kind} {name}", runs=tuple(own))
        for name, kind, own in zip(names, kinds, groups, strict=True)
    ]


def _identity(run: PretrainRun) -> tuple[object, ...]:
    """Return what the seeds of one model share: name, size, and pauses of the training data."""
    record, data = run.record, run.record.dataset
    pauses = data.strategy, data.pause_rate, data.rates, data.pauses_per_token, data.pause_interval
    return record.model, record.parameters, data.seq_length, *pauses


def _names(groups: Sequence[Sequence[PretrainRun]]) -> list[str]:
    """Return a unique name of each group: that of its model, with the size or of its first run if others share it."""
    names: list[str] = []
    for own in groups:
        record, sized = own[0].record, f"{own[0].record.model} ({rounded(own[0].record.parameters)})"
        alike = [other[0].record for other in groups if other[0].record.model == record.model]
        sizes = [rounded(other.parameters) for other in alike]
        if len(alike) == 1:
            names.append(record.model)
        else:
            names.append(sized if sizes.count(rounded(record.parameters)) == 1 else record.name)
    sources = [str(own[0].source) for own in groups]
    return [name if names.count(name) == 1 else source for name, source in zip(names, sources, strict=True)]


def has_repetitions(groups: Sequence[RunGroup]) -> bool:
    """Whether some model has several runs, so that tables and figures show means over seeds."""
    return any(len(group.runs) > 1 for group in groups)


def scatter_note(values: Sequence[float], digits: int) -> str:
    """Return the standard deviation of several values as a note, e.g. "s.d. 0.006, 3 seeds"; nothing for one."""
    return f"s.d. {statistics.stdev(values):.{digits}f}, {len(values)} seeds" if len(values) > 1 else ""


def fact_of(texts: Sequence[str]) -> str:
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


def loss_text(losses: Sequence[float]) -> str:
    """Return a mean loss with four digits; a dash without any."""
    return f"{statistics.fmean(losses):.4f}" if losses else NOTHING
