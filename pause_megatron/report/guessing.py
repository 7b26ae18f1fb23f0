"""Guessing: whether a measurement scores above, at or below what a model gets that knows nothing of the task."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pause_megatron.records.evaluation import Sample
from pause_megatron.report.measurements import Measurement, TaskResult


@dataclass(frozen=True, kw_only=True)
class Guessing:
    """A measurement next to guessing."""

    level: float
    """Score of guessing: chance level, or that of the answer which is right most often, if that is larger."""
    position: Literal["above", "at", "below"]
    """Side of ``level`` that the 95 % interval of the score lies on, "at" if the interval contains it. "below" is only
    found where chance level is known: a model that answers at all is not below it."""
    is_constant: bool
    """Whether some run gives the same answer to all items, which do not have the same target."""
    is_empty: bool
    """Whether some run gives only empty answers."""


def guessing(measurement: Measurement, task: TaskResult) -> Guessing:
    """Compare ``measurement`` with guessing; a score without guessing, such as a perplexity, is above it."""
    level = max(task.chance_level or 0.0, _constant_answer(measurement))
    interval = task.interval(measurement)
    position: Literal["above", "at", "below"] = "at"
    if not task.higher_is_better or (interval is not None and interval[0] > level):
        position = "above"
    elif task.chance_level and interval is not None and interval[1] < task.chance_level:
        position = "below"
    runs = [] if task.hides_answers else [result.record.samples for result in measurement.results]
    return Guessing(
        level=level,
        position=position,
        is_constant=any(_is_constant(samples) for samples in runs),
        is_empty=any(bool(samples) and not any(one.output.strip() for one in samples) for samples in runs),
    )


def _constant_answer(measurement: Measurement) -> float:
    """Largest share of items with one target, as a mean over the results that list them; 0 if none do."""
    listed = [result.record.samples for result in measurement.results if result.lists_all_items]
    return statistics.fmean(map(_largest_share, listed)) if listed else 0.0


def _largest_share(samples: Sequence[Sample]) -> float:
    """Return the largest share of ``samples`` with one target; 0 if no target is that of two items."""
    most = max(Counter(sample.target.strip() for sample in samples).values())
    return most / len(samples) if most > 1 else 0.0


def _is_constant(samples: Sequence[Sample]) -> bool:
    outputs = {sample.output.strip() for sample in samples}
    return len(outputs) == 1 and outputs != {""} and len({sample.target.strip() for sample in samples}) > 1
