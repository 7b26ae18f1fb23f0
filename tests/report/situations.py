"""Situations that a report must judge: made-up results, their verdict and the beginning of their lead sentence."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pause_megatron.records.evaluation import EvaluationRecord, Metric
from pause_megatron.records.variants import VARIANTS
from pause_megatron.report.verdicts import Obstacle, Outcome

from .inputs import evaluation, with_scores


def answered(
    variant: str,
    scores: Sequence[float],
    *,
    task: str = "parity",
    seed: int = 1,
    outputs: Sequence[str] = (),
    **others: Any,
) -> EvaluationRecord:
    """A result that lists all of its items with ``scores``; ``outputs`` replace its answers.

    On parity, targets alternate between "0" and "1". On other tasks, each item has a target of its own.
    """
    record = with_scores(evaluation(task, variant, seed=seed, value=0.5, **others), list(scores))
    samples = []
    for item, sample in enumerate(record.samples):
        target = str(item % 2) if task == "parity" else f"answer {item}"
        output = outputs[item] if outputs else target if sample.correct else f"not {target}"
        samples.append(replace(sample, target=target, output=output))
    errors = math.sqrt(max(0.0, (value := record.primary.value) * (1 - value)) / max(1, len(samples) - 1))
    metric = Metric(value=value, stderr=errors)
    return replace(record, samples=tuple(samples), metrics={record.primary_metric: metric})


def correct(share: float, items: int, seed: object = 0) -> list[float]:
    """Scores of ``items`` items of which exactly ``share`` are right, in an order that ``seed`` draws."""
    right = round(share * items)
    scores = [1.0] * right + [0.0] * (items - right)
    random.Random(str(seed)).shuffle(scores)
    return scores


@dataclass(frozen=True)
class Situation:
    """Results, and what their page must say."""

    records: Sequence[EvaluationRecord]
    outcome: Outcome
    lead: str
    """Beginning of the lead sentence."""
    obstacles: tuple[Obstacle, ...] = ()


def study(
    shares: dict[str, float],
    *,
    task: str = "squad",
    seeds: Iterable[int] = (1, 2, 3),
    items: int = 500,
    answers: Callable[[str], Sequence[str]] = lambda variant: (),
) -> list[EvaluationRecord]:
    """Results of variants with the given shares of right answers, one point apart between seeds."""
    return [
        answered(
            variant,
            correct(
                min(1.0, max(0.0, share + (0.01 * (seed - 2) if 0 < share < 1 else 0.0))), items, f"{variant}{seed}"
            ),
            task=task,
            seed=seed,
            outputs=answers(variant),
        )
        for variant, share in shares.items()
        for seed in seeds
    ]


def constant(seeds: Iterable[int], items: int = 20) -> list[EvaluationRecord]:
    """The quick demo: models finetuned with pauses print "0", the others nothing; without pauses all print nothing."""
    alternating, zeros = [float(item % 2 == 0) for item in range(items)], [0.0] * items
    records = []
    for variant in VARIANTS:
        for seed in seeds:
            if variant.endswith("pauseft"):
                records.append(answered(variant, alternating, seed=seed, outputs=["0"] * items))
                records.append(answered(variant, zeros, seed=seed, outputs=[""] * items, num_pauses_inf=0))
            else:
                records.append(answered(variant, zeros, seed=seed, outputs=[""] * items))
    return records


def always_zero(record: EvaluationRecord) -> EvaluationRecord:
    """``record`` with the answer "0" to every item."""
    samples = [replace(one, target="0" if one.correct else "1", output="0") for one in record.samples]
    return replace(record, samples=tuple(samples))


def with_own_items(record: EvaluationRecord) -> EvaluationRecord:
    """``record`` on test items that only its seed has, as in a repeated experiment."""
    samples = [replace(sample, prompt=f"{sample.prompt} ({record.seed})") for sample in record.samples]
    return replace(record, samples=tuple(samples))


def graded(variant: str, level: float, seed: int) -> EvaluationRecord:
    """An F1 between 0 and 1 for each of 400 items."""
    scores = [round(level + 0.3 * ((item * 37 + seed * 11) % 10 / 10 - 0.45), 3) for item in range(400)]
    return answered(
        variant, scores, task="coqa", seed=seed, primary_metric="f1", metrics={"f1": Metric(value=0, stderr=0.01)}
    )


EQUAL = {"stdpt_stdft": 0.4, "stdpt_pauseft": 0.4, "pausept_stdft": 0.4, "pausept_pauseft": 0.4}
BETTER = EQUAL | {"pausept_pauseft": 0.6}
CANNOT = "Whether pausing helps cannot be judged on "
SITUATIONS = {
    "a real gain": Situation(
        study(BETTER),
        Outcome.HELPS,
        "Pausing helps on squad with these pretrained models: PausePT_PauseFT differs from StdPT_StdFT by +20.0 points"
        " (95 % interval +",
    ),
    "a real loss": Situation(
        study(EQUAL | {"pausept_pauseft": 0.2}),
        Outcome.HURTS,
        "Pausing hurts on squad with these pretrained models: PausePT_PauseFT differs from StdPT_StdFT by −20.0 points",  # noqa: RUF001
    ),
    "a gain and a loss": Situation(
        study(BETTER | {"stdpt_pauseft": 0.2}),
        Outcome.MIXED,
        "Depending on the variant, pausing helps or hurts on squad with these pretrained models: StdPT_PauseFT differs",
    ),
    "a gain of F1": Situation(
        [graded(variant, level, seed) for variant, level in (("stdpt_stdft", 0.4), ("pausept_pauseft", 0.5))
         for seed in (1, 2, 3)],
        Outcome.HELPS,
        "Pausing helps on coqa",
    ),
    "equal models, many items": Situation(
        study(EQUAL, seeds=range(1, 6), items=1500),
        Outcome.NO_DIFFERENCE,
        "On squad, no difference from StdPT_StdFT is larger than ",
    ),
    "the same answers of all models, few items": Situation(
        [answered(variant, correct(0.5, 20), task="squad", seed=seed) for variant in VARIANTS for seed in (1, 2, 3)],
        Outcome.UNJUDGED,
        CANNOT + "squad because differences up to ",
        (Obstacle.TOO_WIDE,),
    ),
    "constant and empty answers, one seed": Situation(
        constant((1,)),
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant is shown to score above guessing (50.0%) and each variant has only one"
        " finetuning seed.",
        (Obstacle.NOT_ABOVE_GUESSING, Obstacle.EMPTY, Obstacle.CONSTANT, Obstacle.ONE_SEED),
    ),
    "constant and empty answers, five seeds": Situation(
        constant(range(5), items=400),
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant is shown to score above guessing (50.0%).",
        (Obstacle.NOT_ABOVE_GUESSING, Obstacle.EMPTY, Obstacle.CONSTANT),
    ),
    "a constant answer that is right more often than chance level": Situation(
        [always_zero(record) for record in study({"stdpt_stdft": 0.7, "pausept_pauseft": 0.7}, task="parity")],
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant is shown to score above the best constant answer (70.0%).",
        (Obstacle.NOT_ABOVE_GUESSING, Obstacle.CONSTANT),
    ),
    "an empty baseline": Situation(
        study({"stdpt_stdft": 0.0, "pausept_pauseft": 0.6},
              answers=lambda variant: [""] * 500 if variant == "stdpt_stdft" else ()),
        Outcome.UNJUDGED,
        CANNOT + "squad because StdPT_StdFT gives only empty answers.",
        (Obstacle.EMPTY,),
    ),
    "one seed": Situation(
        study(BETTER, seeds=(2,)),
        Outcome.UNJUDGED,
        CANNOT + "squad because each variant has only one finetuning seed.",
        (Obstacle.ONE_SEED,),
    ),
    "one seed of the baseline": Situation(
        [*study({"stdpt_stdft": 0.4}, seeds=(2,)), *study({"pausept_pauseft": 0.6})],
        Outcome.UNJUDGED,
        CANNOT + "squad because StdPT_StdFT has only one finetuning seed.",
        (Obstacle.ONE_SEED,),
    ),
    "0 % and 100 %": Situation(
        study({"stdpt_stdft": 0.0, "pausept_pauseft": 1.0}, items=20),
        Outcome.HELPS,
        "Pausing helps on squad with these pretrained models: PausePT_PauseFT differs from StdPT_StdFT by +100.0",
    ),
    "0 % of all": Situation(
        study(dict.fromkeys(VARIANTS, 0.0)),
        Outcome.UNJUDGED,
        CANNOT + "squad because no variant is shown to score above 0.",
        (Obstacle.NOT_ABOVE_GUESSING,),
    ),
    "100 % of all": Situation(
        study(dict.fromkeys(VARIANTS, 1.0)),
        Outcome.UNJUDGED,
        CANNOT + "squad because all test items have the same score with every variant and seed.",
        (Obstacle.NO_VARIANCE,),
    ),
    "scores at chance level": Situation(
        study(dict.fromkeys(VARIANTS, 0.5), task="parity"),
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant is shown to score above guessing (50.0%).",
        (Obstacle.NOT_ABOVE_GUESSING,),
    ),
    "scores below guessing": Situation(
        study({"stdpt_stdft": 0.2, "pausept_pauseft": 0.4}, task="parity"),
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant is shown to score above guessing (50.0%).",
        (Obstacle.NOT_ABOVE_GUESSING,),
    ),
    "a baseline below guessing": Situation(
        study({"stdpt_stdft": 0.2, "pausept_pauseft": 0.8}, task="parity"),
        Outcome.UNJUDGED,
        CANNOT + "parity because StdPT_StdFT scores below guessing (50.0%).",
        (Obstacle.BELOW_GUESSING,),
    ),
    "too few items": Situation(
        study({"stdpt_stdft": 0.2, "pausept_pauseft": 1.0}, items=5),
        Outcome.UNJUDGED,
        CANNOT + "squad because 5 test items are too few.",
        (Obstacle.FEW_ITEMS,),
    ),
    "no baseline": Situation(
        study({"pausept_pauseft": 0.6}),
        Outcome.UNJUDGED,
        CANNOT + "squad because StdPT_StdFT was not measured.",
        (Obstacle.NO_BASELINE,),
    ),
    "only the baseline": Situation(
        study({"stdpt_stdft": 0.6}),
        Outcome.UNJUDGED,
        CANNOT + "squad because only StdPT_StdFT was measured.",
        (Obstacle.NO_VARIANT,),
    ),
    "items not listed": Situation(
        [evaluation("squad", variant, seed=seed, value=value)
         for variant, value in (("stdpt_stdft", 0.3), ("pausept_pauseft", 0.6)) for seed in (1, 2, 3)],
        Outcome.UNJUDGED,
        CANNOT + "squad because the results of each variant do not list their test items.",
        (Obstacle.NOT_LISTED,),
    ),
    "other items for each seed": Situation(
        [with_own_items(record) for record in study(BETTER)],
        Outcome.UNJUDGED,
        CANNOT + "squad because the seeds of each variant have different test items.",
        (Obstacle.ITEMS_OF_SEEDS,),
    ),
    "a gain with hints only": Situation(
        [*study({"stdpt_stdft": 0.4}),
         *(answered("stdpt_pauseft", correct(0.6, 500, seed), task="squad", seed=seed, hint_weight=1.0)
           for seed in (1, 2, 3))],
        Outcome.HELPS,
        "Pausing with labels at the pauses (hints) helps on squad with these pretrained models: StdPT_PauseFT differs",
    ),
    "two seeds that scatter": Situation(
        [answered(variant, correct(share, 40, seed), task="squad", seed=seed)
         for variant, shares in (("stdpt_stdft", (0.3, 0.7)), ("pausept_pauseft", (0.4, 0.8)))
         for seed, share in enumerate(shares)],
        Outcome.UNJUDGED,
        CANNOT + "squad because the scatter of 2 seeds excludes no difference.",
        (Obstacle.TOO_WIDE,),
    ),
    "other items": Situation(
        [*study({"stdpt_stdft": 0.4}), *study({"pausept_pauseft": 0.6}, items=400)],
        Outcome.UNJUDGED,
        CANNOT + "squad because the variants were not evaluated on the same test items.",
        (Obstacle.OTHER_ITEMS,),
    ),
}  # fmt: skip
