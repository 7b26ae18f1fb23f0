"""Measurements: the results of one setting over its seeds, and those of one task with their baselines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pause_megatron.records.variants import BASELINE, VARIANTS
from pause_megatron.report.collect import EvaluationResult
from pause_megatron.report.measured_settings import Setting
from pause_megatron.report.pretrained_models import seeds_of
from pause_megatron.report.uncertainty import (
    Difference,
    Scores,
    Uncertainty,
    crossed_error,
    share_interval,
    without_zero,
)

LOWER_IS_BETTER = ("perplexity", "loss", "bits_per_byte")

Item = tuple[int, str]  # a test item: its index in the result, and its prompt


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The results of one setting, one for each finetuning run: a pretraining seed and a finetuning seed."""

    setting: Setting
    results: tuple[EvaluationResult, ...]

    @property
    def seeds(self) -> int:
        """Number of finetuning runs."""
        return len(self.results)

    @property
    def num_samples(self) -> int:
        """Test items of each evaluation; the smallest number if they differ."""
        return min(result.record.num_samples for result in self.results)

    @cached_property
    def runs(self) -> list[list[int]]:
        """Indices of the results of each independent run.

        With several pretraining seeds these are the runs, since finetunings of one pretrained model share its luck;
        otherwise each finetuning is one.
        """
        pretrained = self._by_pretraining_seed
        return pretrained if len(pretrained) > 1 else [[index] for index in range(self.seeds)]

    @property
    def pretraining_seeds(self) -> int:
        """Number of pretraining runs."""
        return len(self._by_pretraining_seed)

    @cached_property
    def _by_pretraining_seed(self) -> list[list[int]]:
        found: dict[tuple[int, str], list[int]] = {}
        for index, result in enumerate(self.results):
            seed, _, name = seeds_of(result)
            found.setdefault((seed, name), []).append(index)
        return list(found.values())

    @property
    def values(self) -> list[float]:
        """The primary metric of each of :attr:`runs`."""
        values = [result.record.primary.value for result in self.results]
        return [statistics.fmean(values[index] for index in run) for run in self.runs]

    @property
    def mean(self) -> float:
        """Mean of the primary metric over runs."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over runs; None for a single one."""
        return statistics.stdev(self.values) if len(self.runs) > 1 else None

    @property
    def item_error(self) -> Uncertainty | None:
        """Uncertainty from the choice of test items, the same for all seeds; None if a result has no standard error."""
        errors = [result.record.primary.stderr for result in self.results]
        squares = [error**2 for error in errors if error is not None]
        if len(squares) < self.seeds:
            return None
        return without_zero(Uncertainty(stderr=math.sqrt(statistics.fmean(squares))), self.num_samples)

    @property
    def seed_error(self) -> Uncertainty | None:
        """Uncertainty from the randomness of training: the scatter of :attr:`runs`; None for a single one."""
        return Uncertainty.of_mean(self.values)

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """Uncertainty of the mean, from test items and from finetuning; None if neither is known.

        The scatter of seeds contains some of the items' error, which counts twice: the sum is conservative.
        """
        return Uncertainty.of(self.item_error, self.seed_error)

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean; None if it is unknown."""
        return None if self.uncertainty is None else self.uncertainty.stderr

    @property
    def lists_all_items(self) -> bool:
        """Whether every result lists all test items, with scores whose mean is the result."""
        return all(result.lists_all_items and result.is_mean_of_items for result in self.results)

    @cached_property
    def item_scores(self) -> dict[Item, list[float]] | None:
        """Score of each test item by each seed; None unless every result lists all items, and the same ones."""
        if not self.lists_all_items:
            return None
        scores: dict[Item, list[float]] = {}
        for result in self.results:
            for index, sample in enumerate(result.record.samples):
                assert sample.correct is not None  # else the result would not be the mean of its items
                scores.setdefault((index, sample.prompt), []).append(sample.correct)
        return scores if all(len(found) == self.seeds for found in scores.values()) else None

    def minus(self, other: Measurement) -> Difference:
        """Difference of the means.

        If both list the same items, its error is :func:`~pause_megatron.report.uncertainty.crossed_error`, item by item
        and, for the same finetuned models, seed by seed. Otherwise the two are treated as independent.
        """
        value = self.mean - other.mean
        scores = self.paired_scores(other)
        if scores is not None:
            ours, theirs = scores
            samples = [ours - theirs] if self.has_models_of(other) else [ours, theirs]
            error = crossed_error(samples, ours.mean(axis=0) - theirs.mean(axis=0))
            return Difference(value=value, uncertainty=error)
        if self.item_error is None or other.item_error is None:
            return Difference(value=value, uncertainty=None)
        return Difference(value=value, uncertainty=Uncertainty.of(self.uncertainty, other.uncertainty))

    def paired_scores(self, other: Measurement) -> tuple[Scores, Scores] | None:
        """Scores of both, [runs, items] in the same order of items; None unless both list the same two or more."""
        ours, theirs = self.item_scores, other.item_scores
        if ours is None or theirs is None or ours.keys() != theirs.keys() or len(ours) < 2:
            return None
        return self._scores_of_runs(list(ours.values())), other._scores_of_runs([theirs[item] for item in ours])

    def _scores_of_runs(self, scores: Sequence[Sequence[float]]) -> Scores:
        """Return [runs, items] for scores [items, seeds]."""
        by_seed = np.array(scores).T
        return np.stack([by_seed[run].mean(axis=0) for run in self.runs])

    def has_models_of(self, other: Measurement) -> bool:
        """Whether both measure the same finetuned models, for example with other pauses at inference."""
        seeds, others = ([seeds_of(result) for result in one.results] for one in (self, other))
        return self.setting.matched == other.setting.matched and seeds == others


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """All measurements of one task, sorted by :attr:`Setting.order`."""

    name: str
    metric: str
    measurements: tuple[Measurement, ...]
    chance_level: float | None
    """Score of guessing; None if it is unknown."""
    stated_direction: bool | None = None
    """Whether a larger value is better, as the definition of the task says; None if it does not come from elsewhere."""
    hides_answers: bool = False
    """Whether only the probability of the target is known, so that a wrong answer has no text."""

    @cached_property
    def is_percentage(self) -> bool:
        """Whether the metric is a share, shown in percent."""
        return self.higher_is_better and all(0 <= measurement.mean <= 1 for measurement in self.measurements)

    def interval(self, measurement: Measurement) -> tuple[float, float] | None:
        """95 % interval of a measurement's mean; None if it is unknown.

        That of a share holds for few items and at 0 and 1, and needs no standard error.
        """
        mean, error = measurement.mean, measurement.uncertainty
        if self.is_percentage:
            return share_interval(mean, error, max(1, measurement.num_samples))
        return None if error is None else (mean - error.margin, mean + error.margin)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is better."""
        by_name = not any(word in self.metric for word in LOWER_IS_BETTER)
        return by_name if self.stated_direction is None else self.stated_direction

    @cached_property
    def matched(self) -> tuple[Measurement, ...]:
        """The measurements with pauses at inference as in finetuning, which the table of variants shows."""
        return tuple(measurement for measurement in self.measurements if measurement.setting.is_matched)

    @cached_property
    def baselines(self) -> dict[str, Measurement]:
        """StdPT_StdFT by prefix attention; results are only compared under the same attention.

        Of several models that were pretrained without pauses it is the smallest, then the first by name.
        """
        candidates = [measurement for measurement in self.matched if measurement.setting.model == BASELINE]
        found: dict[str, Measurement] = {}
        for measurement in sorted(candidates, key=lambda one: one.results[0].record.architecture.parameters):
            found.setdefault(measurement.setting.prefix_attention, measurement)
        return found

    def baseline_of(self, measurement: Measurement) -> Measurement | None:
        """The baseline that ``measurement`` is compared with; None if it is the baseline, or there is none."""
        baseline = self.baselines.get(measurement.setting.prefix_attention)
        return None if baseline is measurement else baseline

    def matched_of(self, measurement: Measurement) -> Measurement | None:
        """The same finetuned models with the pauses of their finetuning; None if that was not measured."""
        return next((other for other in self.matched if other.setting == measurement.setting.matched), None)

    @cached_property
    def comparisons(self) -> tuple[tuple[Measurement, Measurement, Difference], ...]:
        """Every matched measurement of a variant that has a baseline, with the baseline and the difference from it."""
        variants = [measurement for measurement in self.matched if measurement.setting.model in VARIANTS]
        pairs = [(measurement, self.baseline_of(measurement)) for measurement in variants]
        return tuple((ours, baseline, ours.minus(baseline)) for ours, baseline in pairs if baseline is not None)
