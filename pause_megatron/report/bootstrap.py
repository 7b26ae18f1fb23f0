"""Paired bootstrap: in which range a difference of two variants would fall, were test items and seeds drawn anew.

Test items are drawn together for both variants, as both answered the same ones (Koehn 2004, aclanthology.org/W04-3250).
Finetuning runs are drawn for each variant by itself: seeds of different models have nothing in common but the number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pause_megatron.report.cells import LEVEL, Cell

RESAMPLES = 2000
SEED = 1234
BLOCK_ELEMENTS = 2**22
"""Counts drawn at a time: resamples times items."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """What resampling says of a difference, in the metric's unit."""

    over_items: tuple[float, float]
    """95 % interval for these very finetuned models."""
    over_both: tuple[float, float] | None
    """95 % interval with finetuning runs drawn anew as well; None where either variant has a single one. A few runs are
    too few to know their scatter from, so it is rather too narrow."""
    p_value: float
    """Of "no difference", two-sided, from the wider of the two resamplings."""


def bootstrap(cell: Cell, baseline: Cell) -> Bootstrap | None:
    """Resample ``cell`` minus ``baseline``, always in the same way; None where they do not list the same test items."""
    scores = _paired_scores(cell, baseline)
    if scores is None:
        return None
    generator = np.random.default_rng(SEED)
    of_cell, of_baseline = _draw_items(*scores, generator)
    fixed = of_cell.mean(axis=0) - of_baseline.mean(axis=0)
    if cell.seeds == 1 or baseline.seeds == 1:
        return Bootstrap(over_items=_interval(fixed), over_both=None, p_value=_p_value(fixed))
    drawn = _draw_seeds(of_cell, generator) - _draw_seeds(of_baseline, generator)
    return Bootstrap(over_items=_interval(fixed), over_both=_interval(drawn), p_value=_p_value(drawn))


def _paired_scores(cell: Cell, baseline: Cell) -> tuple[Values, Values] | None:
    """The scores of both, each [seeds, items], with the items in one order; None where the items are not the same."""
    ours, theirs = cell.seed_scores, baseline.seed_scores
    if ours is None or theirs is None or ours.keys() != theirs.keys() or len(ours) < 2:
        return None
    return np.array(list(ours.values())).T, np.array([theirs[item] for item in ours]).T


def _draw_items(scores: Values, others: Values, generator: np.random.Generator) -> tuple[Values, Values]:
    """Means over :data:`RESAMPLES` draws of items, the same for both: [seeds, resamples] each."""
    items = scores.shape[1]
    block = max(1, BLOCK_ELEMENTS // items)
    parts = []
    for start in range(0, RESAMPLES, block):
        times = generator.multinomial(items, np.full(items, 1 / items), size=min(block, RESAMPLES - start)) / items
        parts.append((scores @ times.T, others @ times.T))
    return np.concatenate([part for part, _ in parts], axis=1), np.concatenate([part for _, part in parts], axis=1)


def _draw_seeds(values: Values, generator: np.random.Generator) -> Values:
    """Means over as many seeds as there are, drawn anew for every resample; ``values`` is [seeds, resamples]."""
    seeds = len(values)
    drawn = generator.integers(seeds, size=(seeds, RESAMPLES))
    means: Values = np.take_along_axis(values, drawn, axis=0).mean(axis=0)
    return means


def _interval(drawn: Values) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(drawn: Values) -> float:
    """Twice the share of draws on the rarer side of zero, never quite 0 as there are only so many draws."""
    rarer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return min(1.0, 2 * (rarer + 1) / (RESAMPLES + 1))
