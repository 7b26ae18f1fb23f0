"""Differences of held-out losses between pretrained models, paired by the blocks of the held-out text and by seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pause_megatron.intervals import error_over_blocks
from pause_megatron.records.pretraining import ValidationRecord
from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.uncertainty import Uncertainty


@dataclass(frozen=True, kw_only=True)
class LossDifference:
    """Difference of two models' losses on one held-out dataset, in nats; negative if the first is lower."""

    value: float
    uncertainty: Uncertainty | None
    """Over new text, and with several pretraining seeds over new seeds; None without the losses of several blocks."""
    seeds: int
    """Pairs of runs with equal seeds, or 1 for two single runs."""


def loss_difference(
    model: Sequence[PretrainRun], baseline: Sequence[PretrainRun], dataset: str, baseline_dataset: str | None = None
) -> LossDifference | None:
    """Compare the last validations of two models on ``dataset``; those of ``baseline`` on another one if it is given.

    Runs of equal seeds are pairs, since they started from the same weights where the shapes are equal. None if a model
    has no validation on ``dataset``, or if the models share no seed and are not one run each.
    """
    pairs = _pairs(model, baseline)
    records = [
        (run.last_validation(dataset), other.last_validation(baseline_dataset or dataset)) for run, other in pairs
    ]
    found = [(one, other) for one, other in records if one is not None and other is not None]
    if not found:
        return None
    differences = [one.loss - other.loss for one, other in found]
    components = [_error_over_blocks(found), Uncertainty.of_mean(differences)]
    is_known = components[0] is not None or baseline_dataset is not None
    known = Uncertainty.of(*components) if is_known else None
    return LossDifference(value=math.fsum(differences) / len(differences), uncertainty=known, seeds=len(found))


def _pairs(model: Sequence[PretrainRun], baseline: Sequence[PretrainRun]) -> list[tuple[PretrainRun, PretrainRun]]:
    if len(model) == len(baseline) == 1:
        return [(model[0], baseline[0])]
    others = {run.record.seed: run for run in baseline}
    return [
        (run, others[run.record.seed]) for run in model if run.record.seed is not None and run.record.seed in others
    ]


def _error_over_blocks(pairs: Sequence[tuple[ValidationRecord, ValidationRecord]]) -> Uncertainty | None:
    """Standard error of the mean difference over other held-out text; None unless all records have the same blocks.

    The blocks are the same for each seed, so seeds are averaged first.
    """
    targets = pairs[0][0].block_targets
    if any(record.block_targets != targets for pair in pairs for record in pair):
        return None
    differences = np.mean([np.subtract(one.block_losses, other.block_losses) for one, other in pairs], axis=0)
    error = error_over_blocks(differences.tolist(), targets)
    return None if error is None else Uncertainty(stderr=error, freedom=len(targets) - 1)
