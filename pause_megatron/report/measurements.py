"""Measurements: results grouped by setting over their seeds, and then by task, with the baseline of each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from pause_megatron.errors import UserError
from pause_megatron.records.variants import BASELINE, VARIANTS, pretrained_name
from pause_megatron.report.collect import EvaluationResult
from pause_megatron.report.pretrained_models import difference_besides_seed, seeds_of
from pause_megatron.report.uncertainty import Bootstrap, Difference, Scores, Uncertainty, paired_bootstrap

MODELS = (*VARIANTS, "stdpt", "pausept")  # order of a report's rows: the variants, then models that were not finetuned
CHANCE_LEVELS = {"parity": 0.5, "lookup": 0.1, "piqa": 0.5, "hellaswag": 0.25}
"""Score of guessing in tasks with a fixed number of choices; a result file may state another."""
LOWER_IS_BETTER = ("perplexity", "loss", "bits_per_byte")

Item = tuple[int, str]  # a test item: its index in the result, and its prompt


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything but the seeds of pretraining and finetuning that identifies a measurement."""

    task: str
    model: str
    """A variant, or for a model that was not finetuned "stdpt", "pausept" or "other"."""
    pretrained: str = ""
    """Name of the pretrained model; empty if the report has only one for this variant."""
    num_pauses_ft: int | None
    num_pauses_inf: int
    prefix_attention: str
    min_num_pauses_ft: int | None
    """The smallest M_ft if it was drawn for each example; None if it was fixed."""
    placement_ft: str
    """Placement of the pauses in finetuning; "append" without pauses."""
    placement: str
    """Placement of the pauses at inference; ``placement_ft`` without pauses."""
    filler: str | None
    """Token in place of the pauses at inference; None for ``<pause>``."""

    @staticmethod
    def of(result: EvaluationResult) -> Setting:
        """The setting of ``result``."""
        record = result.record
        finetuning = record.finetuning
        model = record.variant
        if model is None:
            model = "other" if record.pretraining is None else pretrained_name(record.pretraining.pauses)
        placement_ft = finetuning.pause_placement if finetuning and record.num_pauses_ft else "append"
        return Setting(
            task=record.task,
            model=model,
            num_pauses_ft=record.num_pauses_ft,
            num_pauses_inf=record.num_pauses_inf,
            prefix_attention=record.prefix_attention,
            min_num_pauses_ft=finetuning.min_num_pauses_ft if finetuning else None,
            placement_ft=placement_ft,
            placement=record.pause_placement if record.num_pauses_inf else placement_ft,
            filler=record.filler if record.num_pauses_inf else None,
        )

    @property
    def is_matched(self) -> bool:
        """Whether inference pauses as finetuning did: M_inf = M_ft, same placement, no filler."""
        return self == self.matched

    @property
    def matched(self) -> Setting:
        """The same model with pauses at inference as in finetuning."""
        return replace(self, num_pauses_inf=self.num_pauses_ft or 0, placement=self.placement_ft, filler=None)

    @property
    def order(self) -> tuple[int, str, str, int, int, int, str, str, str, str]:
        """Sort key within a task: the order of :data:`MODELS`, then M_ft and M_inf, then the rest."""
        index = MODELS.index(self.model) if self.model in MODELS else len(MODELS)
        smallest = -1 if self.min_num_pauses_ft is None else self.min_num_pauses_ft
        pauses = self.num_pauses_ft or 0, smallest, self.num_pauses_inf
        rest = self.placement_ft, self.placement, self.filler or "", self.prefix_attention
        return index, self.model, self.pretrained, *pauses, *rest


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

    @property
    def values(self) -> list[float]:
        """The primary metric of each seed."""
        return [result.record.primary.value for result in self.results]

    @property
    def mean(self) -> float:
        """Mean of the primary metric over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single seed."""
        return statistics.stdev(self.values) if self.seeds > 1 else None

    @property
    def item_error(self) -> Uncertainty | None:
        """Uncertainty from the choice of test items, the same for all seeds; None if a result has no standard error."""
        errors = [result.record.primary.stderr for result in self.results]
        squares = [error**2 for error in errors if error is not None]
        return Uncertainty(stderr=math.sqrt(statistics.fmean(squares))) if len(squares) == self.seeds else None

    @property
    def seed_error(self) -> Uncertainty | None:
        """Uncertainty from the randomness of finetuning; None for a single seed."""
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

    @cached_property
    def item_scores(self) -> dict[Item, list[float]] | None:
        """Score of each test item by each seed; None unless every result lists all items, and the same ones."""
        scores: dict[Item, list[float]] = {}
        for result in self.results:
            record = result.record
            if not result.lists_all_items or not result.is_mean_of_items:
                return None
            for index, sample in enumerate(record.samples):
                scores.setdefault((index, sample.prompt), []).append(sample.correct)
        return scores if all(len(found) == self.seeds for found in scores.values()) else None

    def minus(self, other: Measurement) -> Difference:
        """Difference of the means.

        If both list the same items, the items' uncertainty is that of the differences item by item, since an item that
        is hard for one variant is often hard for the other. If both are the same finetuned models, the seeds'
        uncertainty is that of the differences seed by seed. Otherwise the two are treated as independent.
        """
        items = self._paired_items(other)
        seeds = self._paired_seeds(other) or Uncertainty.of(self.seed_error, other.seed_error)
        if items is None and self.uncertainty is not None and other.uncertainty is not None:
            items = Uncertainty.of(self.item_error, other.item_error)
        elif items is None:
            seeds = None
        return Difference(value=self.mean - other.mean, uncertainty=Uncertainty.of(items, seeds))

    def bootstrap(self, baseline: Measurement) -> Bootstrap | None:
        """Paired bootstrap of this minus ``baseline``; None unless both list the same two or more test items."""
        scores = self._paired_scores(baseline)
        return None if scores is None else paired_bootstrap(*scores)

    def _paired_scores(self, other: Measurement) -> tuple[Scores, Scores] | None:
        """Scores of both, [seeds, items] in the same order of items; None unless both list the same two or more."""
        ours, theirs = self.item_scores, other.item_scores
        if ours is None or theirs is None or ours.keys() != theirs.keys() or len(ours) < 2:
            return None
        # item_scores is [items, seeds]
        return np.array(list(ours.values())).T, np.array([theirs[item] for item in ours]).T

    def _paired_items(self, other: Measurement) -> Uncertainty | None:
        if (scores := self._paired_scores(other)) is None:
            return None
        spread = Uncertainty.of_mean((scores[0].mean(axis=0) - scores[1].mean(axis=0)).tolist())
        return None if spread is None else replace(spread, freedom=math.inf)

    def _paired_seeds(self, other: Measurement) -> Uncertainty | None:
        ours, theirs = ({seeds_of(one): one.record.primary.value for one in side.results} for side in (self, other))
        if self.setting.matched != other.setting.matched or ours.keys() != theirs.keys():
            return None
        return Uncertainty.of_mean([ours[seed] - theirs[seed] for seed in ours])


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """All measurements of one task, sorted by :attr:`Setting.order`."""

    name: str
    metric: str
    measurements: tuple[Measurement, ...]
    chance_level: float | None
    """Score of guessing; None if it is unknown."""

    @property
    def is_percentage(self) -> bool:
        """Whether the metric is a share, shown in percent."""
        return self.higher_is_better and all(0 <= measurement.mean <= 1 for measurement in self.measurements)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is better."""
        return not any(word in self.metric for word in LOWER_IS_BETTER)

    @cached_property
    def matched(self) -> tuple[Measurement, ...]:
        """The measurements with pauses at inference as in finetuning, which the table of variants shows."""
        return tuple(measurement for measurement in self.measurements if measurement.setting.is_matched)

    @cached_property
    def baselines(self) -> dict[str, Measurement]:
        """StdPT_StdFT by prefix attention; results are only compared under the same attention."""
        found: dict[str, Measurement] = {}
        for measurement in self.matched:
            if measurement.setting.model == BASELINE:
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
        """Every matched measurement that has a baseline, with the baseline and the difference from it."""
        pairs = [(measurement, self.baseline_of(measurement)) for measurement in self.matched]
        return tuple((ours, baseline, ours.minus(baseline)) for ours, baseline in pairs if baseline is not None)


def group_results(results: Iterable[EvaluationResult]) -> tuple[TaskResult, ...]:
    """Group results into tasks, in alphabetical order, and measurements.

    Raises :class:`UserError` for results that cannot be in one report: the same seeds twice, models of one name that
    were pretrained differently, or one task under two metrics.
    """
    by_setting: dict[Setting, list[EvaluationResult]] = {}
    pairs = [(Setting.of(result), result) for result in results]
    variants = [variant for variant, _ in {(setting.model, one.record.pretrained_model) for setting, one in pairs}]
    for setting, result in pairs:
        name = result.record.pretrained_model if variants.count(setting.model) > 1 else ""
        by_setting.setdefault(replace(setting, pretrained=name), []).append(result)
    by_task: dict[str, list[Measurement]] = {}
    for setting, group in by_setting.items():
        by_task.setdefault(setting.task, []).append(_measurement(setting, group))
    return tuple(_task_result(task, by_task[task]) for task in sorted(by_task))


def _measurement(setting: Setting, group: list[EvaluationResult]) -> Measurement:
    ordered = sorted(group, key=seeds_of)
    for one, other in pairwise(ordered):
        if difference := difference_besides_seed(one.record.pretraining, other.record.pretraining):
            raise UserError(
                f"{one.source} and {other.source}: their models have the name {one.record.pretrained_model} but differ"
                f" in {difference} of pretraining; give them other names (--model-name), or write two reports"
            )
        if seeds_of(one) == seeds_of(other):
            raise UserError(
                f"{one.source} and {other.source}: results of the same measurement ({setting.task}, {setting.model},"
                f" seed {one.record.seed}); give only one of them"
            )
    return Measurement(setting=setting, results=tuple(ordered))


def _task_result(task: str, measurements: list[Measurement]) -> TaskResult:
    results = [result for measurement in measurements for result in measurement.results]
    first = results[0]
    for result in results:
        if result.record.primary_metric != first.record.primary_metric:
            raise UserError(
                f"{first.source} and {result.source}: {task} is measured by {first.record.primary_metric} in one and by"
                f" {result.record.primary_metric} in the other; evaluate both by the same metric"
            )
    stated = next((result.record.chance for result in results if result.record.chance is not None), None)
    return TaskResult(
        name=task,
        metric=first.record.primary_metric,
        measurements=tuple(sorted(measurements, key=lambda measurement: measurement.setting.order)),
        chance_level=CHANCE_LEVELS.get(task) if stated is None else stated,
    )
