"""Sentences about verdicts: the lead of the page, one for each task, and one about models without their pauses.

All of them read the same :class:`~pause_megatron.report.verdicts.Verdicts`, so none can contradict another.
"""

import math
from collections.abc import Iterable, Sequence

from pause_megatron.records.variants import BASELINE, VARIANTS
from pause_megatron.report import labels
from pause_megatron.report.guessing import guessing
from pause_megatron.report.measurements import TaskResult
from pause_megatron.report.verdicts import Comparison, Obstacle, Outcome, Reason, RemovalVerdict, TaskVerdict, Verdicts

MOST_NAMED = 4  # variants or models that a sentence names one by one
LABEL = labels.model_label(BASELINE)
TERMS = (
    "StdPT and PausePT: pretrained without and with pause tokens. StdFT and PauseFT: finetuned without and with them.",
    "M_ft and M_inf: pause tokens in each prompt in finetuning and at inference. Chance level: the score of guessing.",
)
"""Definitions of the terms that every sentence uses."""


def lead(verdicts: Verdicts) -> str:
    """Answer the question of the report: the tasks with differences, those without, those that cannot be judged."""
    if not verdicts.tasks:
        return "This report has no evaluation results, so it does not show whether pausing helps."
    sentences = []
    for outcome, words in (
        (Outcome.HELPS, "{} helps on {}"),
        (Outcome.HURTS, "{} hurts on {}"),
        (Outcome.MIXED, "Depending on the variant, {} helps or hurts on {}"),
    ):
        for hinted in (False, True):
            found = [one for one in verdicts.tasks if one.outcome is outcome and only_hints(one) is hinted]
            if not found:
                continue
            pausing = f"pausing{' with labels at the pauses (hints)' if hinted else ''}"
            claims = [one for verdict in found for one in verdict.comparisons if one.outcome in _CLAIMS]
            tasks = labels.listed([verdict.task.name for verdict in found])
            claim = words.format(pausing, tasks)
            sentences.append(
                f"{claim[0].upper()}{claim[1:]} with these pretrained models: {_claims(claims, verdicts)}."
            )
    for verdict in verdicts.tasks:
        if verdict.outcome is Outcome.NO_DIFFERENCE:
            bound = bound_text(verdict.bound, verdict.task)
            sentences.append(f"On {verdict.task.name}, no difference from {LABEL} is larger than {bound}.")
    return " ".join([*sentences, *_unjudged(verdicts)])


_CLAIMS = (Outcome.HELPS, Outcome.HURTS)


def only_hints(verdict: TaskVerdict) -> bool:
    """Whether all variants that differ from the baseline were finetuned with hints: the pauses alone show nothing."""
    claims = [one for one in verdict.comparisons if one.outcome in _CLAIMS]
    return bool(claims) and all(one.measurement.setting.hint_weight for one in claims)


def _claims(claims: Sequence[Comparison], verdicts: Verdicts) -> str:
    tasks = [verdict.task for verdict in verdicts.tasks]
    several = len({one.task.name for one in claims}) > 1
    named = []
    for one in claims[:MOST_NAMED]:
        label = labels.setting_label(one.measurement.setting, tasks)
        named.append(f"{label} differs from {LABEL} by {_size(one)}{f' on {one.task.name}' if several else ''}")
    if len(claims) > MOST_NAMED:
        named.append(f"{len(claims) - MOST_NAMED} more")
    return labels.listed(named)


def _size(one: Comparison) -> str:
    difference = labels.signed(one.difference.value, one.task) + labels.points(one.task)
    return f"{difference} (95 % interval {labels.interval(one.interval, one.task)})"


def _unjudged(verdicts: Verdicts) -> list[str]:
    tasks = [verdict.task for verdict in verdicts.tasks]
    by_reason: dict[str, list[str]] = {}
    for verdict in verdicts.tasks:
        if verdict.outcome is Outcome.UNJUDGED:
            text = reasons_text(_main(verdict.reasons), verdict.task, tasks)
            by_reason.setdefault(text, []).append(verdict.task.name)
    return [
        f"{'On' if number else 'Whether pausing helps cannot be judged on'} {labels.listed(names)}"
        f"{', it cannot be judged' if number else ''} because {text}."
        for number, (text, names) in enumerate(by_reason.items())
    ]


def _main(reasons: Sequence[Reason]) -> list[Reason]:
    """Leave out why scores are not above guessing, which the table of verdicts gives."""
    guessed = any(reason.obstacle is Obstacle.NOT_ABOVE_GUESSING for reason in reasons)
    return [one for one in reasons if not (guessed and one.obstacle in (Obstacle.EMPTY, Obstacle.CONSTANT))]


def bound_text(bound: float, task: TaskResult) -> str:
    """Return the X of "no difference larger than X", rounded up: "3.3 points"."""
    if task.is_percentage:
        return labels.value(min(1.0, bound + 0.0005), task) + labels.points(task)
    step = 10.0 ** (math.floor(math.log10(bound)) - 2) if bound > 0 else 1.0  # of the third digit
    return labels.value(math.ceil(bound / step - 1e-6) * step, task)


def outcome_text(one: Comparison) -> str:
    """Return the verdict of a comparison: "no difference larger than 3.3 points", for example."""
    if one.outcome is Outcome.NO_DIFFERENCE and one.bound is not None:
        return f"{one.outcome} {bound_text(one.bound, one.task)}"
    return str(one.outcome)


def task_outcome_text(verdict: TaskVerdict) -> str:
    """Return the verdict of a task."""
    if verdict.outcome is Outcome.NO_DIFFERENCE:
        return f"{verdict.outcome} {bound_text(verdict.bound, verdict.task)}"
    return f"{verdict.outcome}{' with hints' if only_hints(verdict) else ''}"


def comparisons_text(verdict: TaskVerdict, tasks: Sequence[TaskResult]) -> str:
    """Return the verdict of each variant of a task, or the reasons if none of them can be judged."""
    if verdict.outcome is Outcome.UNJUDGED and all(one.outcome is Outcome.UNJUDGED for one in verdict.comparisons):
        return sentence(reasons_text(verdict.reasons, verdict.task, tasks))
    found = []
    for one in verdict.comparisons:
        label, outcome = labels.setting_label(one.measurement.setting, tasks), outcome_text(one)
        detail = _size(one) if one.outcome in _CLAIMS else reasons_text(one.reasons, one.task, tasks)
        found.append(f"{label}: {outcome}{f', {detail}' if detail else ''}")
    return "; ".join(found) + "."


def task_sentence(verdict: TaskVerdict, tasks: Sequence[TaskResult]) -> str:
    """State the score of each baseline of a task, and the difference and the verdict of every other variant."""
    task = verdict.task
    direction = "" if task.higher_is_better else ", lower is better"
    if not task.baselines:
        found = [f"{labels.setting_label(one.setting, tasks)} {labels.amount(one, task)}" for one in task.measurements]
        return f"{task.name} ({task.metric}{direction}): {labels.listed(found)}. {LABEL} was not measured."
    sentences = []
    for baseline in task.baselines.values():
        label, score = labels.setting_label(baseline.setting, tasks), labels.amount(baseline, task)
        items, seeds = labels.counted(baseline.num_samples, "test item"), labels.counted(baseline.seeds, "seed")
        sentences.append(f"{label} scores {score} on {items} with {seeds}.")
        for one in verdict.comparisons:
            if one.baseline is baseline:
                label = labels.setting_label(one.measurement.setting, tasks)
                difference = labels.signed(one.difference.value, task) + labels.points(task)
                sentences.append(f"{label}: {difference}, {outcome_text(one)}.")
    return f"{task.name} ({task.metric}{direction}): {' '.join(sentences)}"


def reasons_text(reasons: Iterable[Reason], task: TaskResult, tasks: Sequence[TaskResult]) -> str:
    """Return reasons as a clause: "no variant is shown to score above guessing (50.0%) and each has one seed"."""
    found = list(reasons)
    if any(reason.obstacle is Obstacle.TOO_WIDE for reason in found) and len(found) > 1:
        found = [reason for reason in found if reason.obstacle is not Obstacle.TOO_WIDE]
    clauses = [_reason(reason, task, tasks) for reason in found]
    if len(clauses) > 1 and any(" and " in clause or "," in clause for clause in clauses):
        return f"{'; '.join(clauses[:-1])}; and {clauses[-1]}"
    return labels.listed(clauses) if clauses else ""


def _reason(reason: Reason, task: TaskResult, tasks: Sequence[TaskResult]) -> str:
    concerned = reason.measurements
    variants = [one for one in task.matched if one.setting.model in VARIANTS]
    everyone = len(variants) > 1 and all(any(one is other for other in concerned) for one in variants)
    names = list(dict.fromkeys(labels.setting_label(one.setting, tasks) for one in concerned))
    who = "each variant" if everyone else labels.listed(names) if names else ""
    plural = not everyone and len(names) > 1
    level = max((guessing(one, task).level for one in concerned), default=0.0)
    name = "the best constant answer" if level > (task.chance_level or 0.0) else "guessing"
    bar = f"{name} ({labels.value(level, task)}{'%' if task.is_percentage else ''})" if level else "0"
    if reason.obstacle is Obstacle.NOT_ABOVE_GUESSING:
        if everyone:
            return f"no variant is shown to score above {bar}"
        if len(names) == 2:
            return f"neither {names[0]} nor {names[1]} is shown to score above {bar}"
        return f"{who} {'are' if plural else 'is'} not shown to score above {bar}"
    smallest = min((one.num_samples for one in concerned), default=0)
    return {
        Obstacle.NO_BASELINE: f"{LABEL} was not measured",
        Obstacle.NO_VARIANT: f"only {LABEL} was measured",
        Obstacle.EMPTY: f"{who} {'give' if plural else 'gives'} only empty answers",
        Obstacle.BELOW_GUESSING: f"{who} {'score' if plural else 'scores'} below guessing ({_chance(task)})",
        Obstacle.CONSTANT: f"{who} {'give' if plural else 'gives'} the same answer to every test item",
        Obstacle.ONE_SEED: f"{who} {'have' if plural else 'has'} only one finetuning seed",
        Obstacle.FEW_ITEMS: f"{labels.counted(smallest, 'test item')} {'is' if smallest == 1 else 'are'} too few",
        Obstacle.NOT_LISTED: f"the results of {who} do not list their test items",
        Obstacle.ITEMS_OF_SEEDS: f"the seeds of {who} have different test items",
        Obstacle.OTHER_ITEMS: "the variants were not evaluated on the same test items",
        Obstacle.NO_VARIANCE: "all test items have the same score with every variant and seed",
        Obstacle.TOO_WIDE: _too_wide(reason, task),
        Obstacle.UNCLEAR_LOSS: "the loss may be more or less than half of the score"
        + (" above chance level" if task.chance_level else ""),
    }[reason.obstacle]


def _too_wide(reason: Reason, task: TaskResult) -> str:
    if task.is_percentage and reason.bound >= 1:
        fewest = min((one.seeds for one in reason.measurements), default=0)
        return f"the scatter of {labels.counted(fewest, 'seed')} excludes no difference"
    return f"differences up to {bound_text(reason.bound, task)} remain possible"


def _chance(task: TaskResult) -> str:
    return labels.value(task.chance_level, task) + ("%" if task.is_percentage else "")


def removal_outcome(verdict: RemovalVerdict) -> str:
    """Return the verdict of a model without its pauses: "collapses", for example."""
    if verdict.collapses is None:
        return str(Outcome.UNJUDGED)
    return "collapses" if verdict.collapses else "does not collapse"


def removal_sentences(verdicts: Verdicts) -> list[str]:
    """State which models finetuned with pauses collapse without them; empty if none was evaluated without."""
    if not verdicts.removals:
        return []
    sentences = []
    for collapses, verb in ((True, "collapse"), (False, "do not collapse")):
        if found := [one for one in verdicts.removals if one.collapses is collapses]:
            sentences.append(f"Without pauses at inference, these models {verb}: {_models(found, with_scores=True)}.")
    if unjudged := [one for one in verdicts.removals if one.collapses is None]:
        tasks = [verdict.task for verdict in verdicts.tasks]
        reasons = {reasons_text(one.reasons, one.task, tasks) for one in unjudged}
        why = f" because {reasons.pop()}" if len(reasons) == 1 else ""
        sentences.append(
            "Whether a model collapses without pauses at inference cannot be judged for"
            f" {_models(unjudged, with_scores=False)}{why}."
        )
    return [" ".join(sentences)]


def _models(found: Sequence[RemovalVerdict], *, with_scores: bool) -> str:
    named = []
    for one in found[:MOST_NAMED]:
        named.append(f"{labels.series_label(one.removal.finetuned.setting, one.task)} on {one.task.name}")
        if with_scores:
            before, after = (labels.value(side.mean, one.task) for side in (one.removal.finetuned, one.removal.without))
            named[-1] += f" (from {before} to {after}{'%' if one.task.is_percentage else ''})"
    if len(found) > MOST_NAMED:
        named.append(f"{len(found) - MOST_NAMED} more")
    return labels.listed(named)


def sentence(text: str) -> str:
    """Return ``text`` with a capital first letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
