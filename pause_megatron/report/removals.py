"""Removal of pauses: models finetuned with pauses that were evaluated both with as many and without any."""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.report.measured_settings import Setting
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.uncertainty import Difference, crossed_error

KEPT_SHARE = 0.5  # a model without pauses collapses if it keeps less than this share of its score above chance level


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A model finetuned with pauses, evaluated with them and without."""

    finetuned: Measurement
    """With the pauses of its finetuning."""
    without: Measurement
    """With M_inf = 0."""
    difference: Difference
    """``without`` minus ``finetuned``."""
    kept: float | None
    """Kept share of the score above chance level, see :func:`kept_share`."""
    kept_half: Difference
    """Score of ``without`` minus the score that keeps half; negative for a collapse."""


def kept_share(measurement: Measurement, finetuned: Measurement, task: TaskResult) -> float | None:
    """Return the share of ``finetuned``'s score above chance level that ``measurement`` keeps; None if it has none."""
    floor = task.chance_level or 0.0  # 0 if it is unknown
    gained = finetuned.mean - floor
    return (measurement.mean - floor) / gained if task.higher_is_better and gained > 0 else None


def inference_series(task: TaskResult) -> list[list[Measurement]]:
    """Return the measurements of each finetuned model with several M_inf, in the order of M_inf; no fillers."""
    series: dict[tuple[Setting, str], list[Measurement]] = {}
    for measurement in task.measurements:
        setting = measurement.setting
        if setting.has_own_inputs:
            series.setdefault((setting.matched, setting.placement), []).append(measurement)
    return [measurements for measurements in series.values() if len(measurements) > 1]


def find_removals(task: TaskResult) -> list[Removal]:
    """Return every model finetuned with pauses that was evaluated both with as many and without any."""
    found = []
    for measurements in inference_series(task):
        finetuned = task.matched_of(measurements[0])
        without = next((one for one in measurements if not one.setting.num_pauses_inf), None)
        if finetuned is None or without is None or not finetuned.setting.num_pauses_ft:
            continue
        if without is finetuned:  # pauses before unlikely tokens are in finetuning only
            continue
        found.append(
            Removal(
                finetuned=finetuned,
                without=without,
                difference=without.minus(finetuned),
                kept=kept_share(without, finetuned, task),
                kept_half=_kept_half(without, finetuned, task),
            )
        )
    return found


def _kept_half(without: Measurement, finetuned: Measurement, task: TaskResult) -> Difference:
    floor = task.chance_level or 0.0
    value = without.mean - floor - KEPT_SHARE * (finetuned.mean - floor)
    scores = without.paired_scores(finetuned)
    if scores is None:
        return Difference(value=value, uncertainty=None)
    after, before = scores[0], KEPT_SHARE * scores[1]
    samples = [after - before] if without.has_models_of(finetuned) else [after, before]
    per_item = after.mean(axis=0) - before.mean(axis=0) - (1 - KEPT_SHARE) * floor
    return Difference(value=value, uncertainty=crossed_error(samples, per_item))
