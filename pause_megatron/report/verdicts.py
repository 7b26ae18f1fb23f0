"""Verdicts of a report: whether each variant helps, hurts, makes no difference, or cannot be judged, and why.

Every claim of the page comes from here. A comparison is judged only if its preconditions hold, see :class:`Obstacle`.
All comparisons that a page could make a claim of, those of the variants and those without pauses at inference, are one
family for Holm's correction, so that at most 5 % of pages with equal variants claim any difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from pause_megatron.records.variants import BASELINE
from pause_megatron.report.guessing import Guessing, guessing
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.paired_tests import ALPHA, Corrected, holm, sign_flip_p_value, smallest_p_value
from pause_megatron.report.removals import Removal, find_removals
from pause_megatron.report.uncertainty import Difference, Scores

LARGEST_BOUND = 0.1
"""Largest X of "no difference larger than X": 10 points, or 10 % of the baseline's score of another metric."""
LARGEST_BOUND_OF_SKILL = 0.5
"""Largest X relative to the better score above guessing: with more, all of the skill could be lost unseen."""


class Outcome(StrEnum):
    """Verdict of one comparison, or of all comparisons of a task."""

    HELPS = "helps"
    HURTS = "hurts"
    MIXED = "helps or hurts"
    NO_DIFFERENCE = "no difference larger than"
    UNJUDGED = "cannot be judged"


class Obstacle(StrEnum):
    """Precondition of a verdict that does not hold, the most important first."""

    NO_BASELINE = "no result of the baseline"
    NO_VARIANT = "no result of another variant"
    NOT_ABOVE_GUESSING = "not above guessing"
    BELOW_GUESSING = "below guessing"
    EMPTY = "only empty answers"
    CONSTANT = "the same answer to every item"
    ONE_SEED = "one finetuning seed"
    FEW_ITEMS = "too few items"
    NOT_LISTED = "items not listed"
    ITEMS_OF_SEEDS = "other items for each seed"
    OTHER_ITEMS = "other items"
    NO_VARIANCE = "all scores equal"
    TOO_WIDE = "large differences possible"
    UNCLEAR_LOSS = "loss of about half"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """An obstacle, and the measurements that have it."""

    obstacle: Obstacle
    measurements: tuple[Measurement, ...] = ()
    bound: float = 0.0
    """Largest difference that remains possible, for :attr:`Obstacle.TOO_WIDE`."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One variant against the baseline of its task, with the verdict."""

    task: TaskResult
    measurement: Measurement
    baseline: Measurement
    difference: Difference
    """``measurement`` minus ``baseline``."""
    test: Corrected | None
    """None if the comparison has no test, because of a single seed for example."""
    interval: tuple[float, float] | None
    """Interval of the difference at the corrected level; it contains 0 unless the test rejects. None without test."""
    reasons: tuple[Reason, ...]
    """Why the comparison cannot be judged; empty if it can."""

    @property
    def is_shown(self) -> bool:
        """Whether interval and p are shown: not if they would suggest a difference that cannot be judged."""
        return {reason.obstacle for reason in self.reasons} <= {Obstacle.TOO_WIDE}

    @property
    def bound(self) -> float | None:
        """Largest absolute difference in the interval."""
        return None if self.interval is None else max(map(abs, self.interval))

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        if self.reasons or self.test is None:
            return Outcome.UNJUDGED
        if not self.test.rejected:
            return Outcome.NO_DIFFERENCE
        return Outcome.HELPS if (self.difference.value > 0) == self.task.higher_is_better else Outcome.HURTS


@dataclass(frozen=True, kw_only=True)
class TaskVerdict:
    """All comparisons of one task."""

    task: TaskResult
    comparisons: tuple[Comparison, ...]

    @cached_property
    def outcome(self) -> Outcome:
        """Verdict of the task: claims of a difference first, "no difference" only if it holds for all comparisons."""
        found = {one.outcome for one in self.comparisons}
        if {Outcome.HELPS, Outcome.HURTS} <= found:
            return Outcome.MIXED
        for outcome in (Outcome.HELPS, Outcome.HURTS):
            if outcome in found:
                return outcome
        return Outcome.NO_DIFFERENCE if found == {Outcome.NO_DIFFERENCE} else Outcome.UNJUDGED

    @property
    def bound(self) -> float:
        """X of "no difference larger than X": the largest one of the comparisons."""
        return max(one.bound or 0.0 for one in self.comparisons)

    @cached_property
    def reasons(self) -> tuple[Reason, ...]:
        """Reasons of all comparisons, each once, with all measurements that it holds for."""
        if not self.comparisons:
            present = any(one.setting.model == BASELINE for one in self.task.matched)
            return (Reason(obstacle=Obstacle.NO_VARIANT if present else Obstacle.NO_BASELINE),)
        found: dict[Obstacle, list[Measurement]] = {}
        bound = max((reason.bound for one in self.comparisons for reason in one.reasons), default=0.0)
        for reason in (reason for one in self.comparisons for reason in one.reasons):
            known = found.setdefault(reason.obstacle, [])
            known += [measurement for measurement in reason.measurements if measurement not in known]
        order = list(Obstacle)
        return tuple(
            Reason(obstacle=obstacle, measurements=tuple(found[obstacle]), bound=bound)
            for obstacle in sorted(found, key=order.index)
        )


@dataclass(frozen=True, kw_only=True)
class RemovalVerdict:
    """A model finetuned with pauses, evaluated without them, with the verdict."""

    task: TaskResult
    removal: Removal
    test: Corrected | None
    """Test of "keeps half of its score above guessing"; None if there is none, because of a single seed for example."""
    reasons: tuple[Reason, ...]
    """Why it cannot be judged; empty if it can."""

    @property
    def collapses(self) -> bool | None:
        """Whether the model keeps less than half of its score above guessing; None if that cannot be judged."""
        if self.reasons or self.test is None:
            return None
        return self.removal.kept_half.value < 0


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """All verdicts of a report."""

    tasks: tuple[TaskVerdict, ...]
    removals: tuple[RemovalVerdict, ...]

    @property
    def tested(self) -> int:
        """Number of tests that Holm's correction counts."""
        return sum(one.test is not None for task in self.tasks for one in task.comparisons) + sum(
            one.test is not None for one in self.removals
        )


def judge(tasks: Sequence[TaskResult]) -> Verdicts:
    """Test and judge all comparisons of a report."""
    pairs = [(task, *pair) for task in tasks for pair in task.comparisons]
    removed = [(task, removal) for task in tasks for removal in find_removals(task)]
    levels = {id(one): guessing(one, task) for task in tasks for one in task.matched}
    structural = [_missing(ours, baseline) for _, ours, baseline, _ in pairs]
    structural += [_missing(removal.finetuned, removal.without) for _, removal in removed]
    p_values = [_p_value(ours, baseline, difference) for _, ours, baseline, difference in pairs]
    p_values += [_removal_p_value(removal) for _, removal in removed]
    testable = [index for index, reasons in enumerate(structural) if not reasons]
    corrected = dict(zip(testable, holm([p_values[index] for index in testable]), strict=True))
    comparisons: dict[str, list[Comparison]] = {}
    for index, (task, ours, baseline, difference) in enumerate(pairs):
        bare = Comparison(
            task=task,
            measurement=ours,
            baseline=baseline,
            difference=difference,
            test=corrected.get(index),
            interval=_interval(task, difference, corrected.get(index)),
            reasons=(),
        )
        reasons = [*_answers(ours, baseline, levels), *structural[index]]
        reasons += _sensitivity(bare, levels, len(testable), is_judged=not reasons)
        comparisons.setdefault(task.name, []).append(replace(bare, reasons=tuple(reasons)))
    return Verdicts(
        tasks=tuple(TaskVerdict(task=task, comparisons=tuple(comparisons.get(task.name, ()))) for task in tasks),
        removals=tuple(
            _judge_removal(task, removal, structural[index], corrected.get(index), levels[id(removal.finetuned)])
            for index, (task, removal) in enumerate(removed, start=len(pairs))
        ),
    )


def _missing(ours: Measurement, theirs: Measurement) -> list[Reason]:
    """Obstacles that leave nothing to test."""
    reasons = []
    if single := [one for one in (ours, theirs) if one.seeds == 1]:
        reasons.append(Reason(obstacle=Obstacle.ONE_SEED, measurements=tuple(single)))
    if unlisted := [one for one in (ours, theirs) if not one.lists_all_items]:
        reasons.append(Reason(obstacle=Obstacle.NOT_LISTED, measurements=tuple(unlisted)))
    elif uneven := [one for one in (ours, theirs) if one.item_scores is None]:
        reasons.append(Reason(obstacle=Obstacle.ITEMS_OF_SEEDS, measurements=tuple(uneven)))
    elif ours.paired_scores(theirs) is None:
        reasons.append(Reason(obstacle=Obstacle.OTHER_ITEMS, measurements=(ours, theirs)))
    return reasons


def _answers(ours: Measurement, baseline: Measurement, levels: dict[int, Guessing]) -> Iterator[Reason]:
    """Obstacles in the answers of both variants."""
    both = (ours, baseline)
    empty = [one for one in both if levels[id(one)].is_empty]
    if not any(levels[id(one)].position == "above" for one in both):
        yield Reason(obstacle=Obstacle.NOT_ABOVE_GUESSING, measurements=both)
        if constant := [one for one in both if levels[id(one)].is_constant]:
            yield Reason(obstacle=Obstacle.CONSTANT, measurements=tuple(constant))
    elif below := [one for one in both if levels[id(one)].position == "below" and one not in empty]:
        yield Reason(obstacle=Obstacle.BELOW_GUESSING, measurements=tuple(below))
    if empty:
        yield Reason(obstacle=Obstacle.EMPTY, measurements=tuple(empty))


def _sensitivity(one: Comparison, levels: dict[int, Guessing], tested: int, *, is_judged: bool) -> Iterator[Reason]:
    """Obstacles in what the test could find; all but the number of items only if there is no other obstacle."""
    scores = one.measurement.paired_scores(one.baseline)
    if scores is None or one.test is None or one.bound is None:
        return
    measurements = (one.measurement, one.baseline)
    if smallest_p_value(scores[0].shape[1]) > ALPHA / tested:
        yield Reason(obstacle=Obstacle.FEW_ITEMS, measurements=measurements)
    elif is_judged and all(runs.min() == runs.max() == scores[0].min() for runs in scores):
        yield Reason(obstacle=Obstacle.NO_VARIANCE, measurements=measurements)
    elif is_judged and not one.test.rejected and one.bound > _largest_bound(one, levels):
        yield Reason(obstacle=Obstacle.TOO_WIDE, measurements=measurements, bound=one.bound)


def _largest_bound(one: Comparison, levels: dict[int, Guessing]) -> float:
    if not one.task.is_percentage:
        return LARGEST_BOUND * abs(one.baseline.mean)
    skill = max(side.mean - levels[id(side)].level for side in (one.measurement, one.baseline))
    return min(LARGEST_BOUND, LARGEST_BOUND_OF_SKILL * max(0.0, skill))


def _p_value(ours: Measurement, baseline: Measurement, difference: Difference) -> float:
    """The larger p of Student's t over items and seeds and of the exact test over items, which must both reject."""
    scores = ours.paired_scores(baseline)
    if scores is None or difference.p_value is None:
        return 1.0
    return max(difference.p_value, sign_flip_p_value(_item_differences(scores)))


def _item_differences(scores: tuple[Scores, Scores]) -> Scores:
    differences: Scores = scores[0].mean(axis=0) - scores[1].mean(axis=0)
    return differences


def _removal_p_value(removal: Removal) -> float:
    """p of "keeps half"; a loss must also be found by the exact test over items."""
    scores = removal.without.paired_scores(removal.finetuned)
    p_value = removal.kept_half.p_value
    if scores is None or p_value is None:
        return 1.0
    return max(p_value, sign_flip_p_value(_item_differences(scores))) if removal.kept_half.value < 0 else p_value


def _interval(task: TaskResult, difference: Difference, test: Corrected | None) -> tuple[float, float] | None:
    ends = None if test is None else difference.interval_at(test.alpha)
    if test is None or ends is None:
        return None
    low, high = ends if test.rejected else (min(0.0, ends[0]), max(0.0, ends[1]))
    return (max(-1.0, low), min(1.0, high)) if task.is_percentage else (low, high)


def _judge_removal(
    task: TaskResult, removal: Removal, missing: list[Reason], test: Corrected | None, level: Guessing
) -> RemovalVerdict:
    reasons = list(missing)
    if level.position != "above" or removal.kept is None:
        reasons.insert(0, Reason(obstacle=Obstacle.NOT_ABOVE_GUESSING, measurements=(removal.finetuned,)))
    elif test is not None and not test.rejected:
        reasons.append(Reason(obstacle=Obstacle.UNCLEAR_LOSS, measurements=(removal.finetuned, removal.without)))
    return RemovalVerdict(task=task, removal=removal, test=test, reasons=tuple(reasons))
