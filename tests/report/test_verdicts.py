"""Verdicts, and every generated sentence, in a table of situations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest

from pause_megatron.records.evaluation import EvaluationRecord, Metric
from pause_megatron.records.variants import VARIANTS
from pause_megatron.report.collect import Collected
from pause_megatron.report.document import Document, build_document
from pause_megatron.report.measurements import group_results
from pause_megatron.report.verdict_words import lead
from pause_megatron.report.verdicts import Obstacle, Outcome, Verdicts, judge
from pause_megatron.report.write import render_files

from .inputs import answered, correct, evaluation, results

CLAIMS = re.compile(r"\b(helps|hurts|helped|better|worse|higher|lower|significant\w*|collapses?|improves?)\b")
"""Words of a claim; a page without any verdict must not use them, except to define or to deny them."""
NO_CLAIMS = (
    "Whether pausing helps cannot be judged",
    "Whether a model collapses without pauses at inference cannot be judged",
    "A variant helps or hurts if",
    "A model collapses without pauses if",
    "lighter is better",
)


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
        "Pausing helps or hurts on squad, depending on the variant with these pretrained models: StdPT_PauseFT differs",
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
        CANNOT + "parity because no variant scores above guessing (50.0%); StdPT_StdFT and PausePT_StdFT give only"
        " empty answers; StdPT_PauseFT and PausePT_PauseFT give the same answer to every test item; and each variant"
        " has only one finetuning seed.",
        (Obstacle.NOT_ABOVE_GUESSING, Obstacle.EMPTY, Obstacle.CONSTANT, Obstacle.ONE_SEED),
    ),
    "constant and empty answers, five seeds": Situation(
        constant(range(5), items=400),
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant scores above guessing (50.0%); StdPT_StdFT",
        (Obstacle.NOT_ABOVE_GUESSING, Obstacle.EMPTY, Obstacle.CONSTANT),
    ),
    "a constant answer that is right more often than chance level": Situation(
        [always_zero(record) for record in study({"stdpt_stdft": 0.7, "pausept_pauseft": 0.7}, task="parity")],
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant scores above guessing (69.0%) and each variant gives the same answer to",
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
        CANNOT + "squad because no variant scores above 0.",
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
        CANNOT + "parity because no variant scores above guessing (50.0%).",
        (Obstacle.NOT_ABOVE_GUESSING,),
    ),
    "scores below guessing": Situation(
        study({"stdpt_stdft": 0.2, "pausept_pauseft": 0.4}, task="parity"),
        Outcome.UNJUDGED,
        CANNOT + "parity because no variant scores above guessing (50.0%).",
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
    "other items": Situation(
        [*study({"stdpt_stdft": 0.4}), *study({"pausept_pauseft": 0.6}, items=400)],
        Outcome.UNJUDGED,
        CANNOT + "squad because the variants were not evaluated on the same test items.",
        (Obstacle.OTHER_ITEMS,),
    ),
}  # fmt: skip


def verdicts_of(records: Sequence[EvaluationRecord]) -> Verdicts:
    return judge(group_results(results(records)))


@cache
def report(name: str) -> tuple[Document, dict[str, bytes]]:
    """The report of a situation and its files."""
    collected = Collected(evaluations=results(SITUATIONS[name].records), runs=())
    found = build_document(collected, title="Does pausing help?", samples_per_task=0)
    return found, render_files(found, collected)


def page(name: str) -> str:
    """The Markdown of a situation's report, which has all of its sentences."""
    return report(name)[1]["report.md"].decode()


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_situation_has_its_verdict_and_its_lead(name: str) -> None:
    situation = SITUATIONS[name]
    found = verdicts_of(situation.records)
    (verdict,) = found.tasks
    assert lead(found).startswith(situation.lead)
    assert verdict.outcome is situation.outcome
    assert tuple(reason.obstacle for reason in verdict.reasons) == situation.obstacles


@pytest.mark.parametrize("name", [name for name, one in SITUATIONS.items() if one.outcome is Outcome.UNJUDGED])
def test_nothing_contradicts_a_page_that_cannot_judge(name: str) -> None:
    text = page(name)
    for allowed in NO_CLAIMS:
        text = text.replace(allowed, "")
    text = re.sub(r"it keeps less than half.*?this cannot be judged", "", text, flags=re.DOTALL)
    text = re.sub(r"if all variants were equally good.*", "", text)
    assert not CLAIMS.findall(text), CLAIMS.search(text)
    assert "± 0.0" not in text
    assert not re.search(r"\| [+−][\d.]+ to [+][\d.]+ \|", text) or "remain possible" in text  # noqa: RUF001
    assert "<0.0" not in text


@pytest.mark.parametrize("name", SITUATIONS)
def test_no_generated_sentence_has_a_known_fault(name: str) -> None:
    text = page(name)
    for fault in ("none of the", "the other 1", "only model", "told from chance", ", and and", "because .", "  - "):
        assert fault not in text, fault
    numbers = re.findall(r"(?<![.,\d])1 (?:seeds|items|points|models|test items|comparisons)\b", text)
    assert numbers == []
    assert not re.search(r"\bchance\b(?! level)", text)


def test_json_markdown_and_page_have_the_same_verdicts() -> None:
    for name in ("a real gain", "constant and empty answers, one seed"):
        found, files = report(name)
        values = json.loads(files["report.json"])
        assert values["format"] == "pause_megatron/report/2"
        assert values["lead"] == found.lead
        assert [one["verdict"] for one in values["verdicts"]] == [SITUATIONS[name].outcome]
        markdown = files["report.md"].decode()
        html = re.sub(
            r"<wbr>|&nbsp;|<i>M</i><sub>|</sub>",
            lambda one: " " if one[0] == "&nbsp;" else "",
            files["report.html"].decode(),
        )
        for text in (found.lead, *(reason["text"] for reason in values["verdicts"][0]["reasons"])):
            assert text in markdown.replace("\\", "")
            assert text in html
        for row in values["verdicts"][0]["comparisons"]:
            assert (row["interval"] is None) == (row["verdict"] == Outcome.UNJUDGED)


def test_all_comparisons_of_a_page_are_one_family() -> None:
    """A difference that is found on its own is not found among many."""
    pair = [*study({"stdpt_stdft": 0.4}, items=150), *study({"pausept_pauseft": 0.575}, items=150)]
    others = [
        one
        for number in range(30)
        for one in study({"stdpt_stdft": 0.4, "pausept_pauseft": 0.4}, task=f"t{number}", items=60)
    ]
    assert verdicts_of(pair).tasks[0].outcome is Outcome.HELPS
    together = verdicts_of([*pair, *others])
    assert together.tested == 31
    assert {one.outcome for one in together.tasks} == {Outcome.UNJUDGED}
    assert all(
        one.interval is not None and one.interval[0] <= 0 <= one.interval[1]
        for task in together.tasks
        for one in task.comparisons
    )


def test_a_mean_interval_never_contradicts_its_verdict() -> None:
    for name in SITUATIONS:
        for task in verdicts_of(SITUATIONS[name].records).tasks:
            for one in task.comparisons:
                if one.outcome in (Outcome.HELPS, Outcome.HURTS):
                    assert one.interval is not None
                    assert min(map(abs, one.interval)) > 0
                    assert one.interval[0] * one.interval[1] > 0
                elif one.outcome is Outcome.NO_DIFFERENCE:
                    assert one.bound is not None
                    assert abs(one.difference.value) <= one.bound <= 0.1


def test_several_tasks_are_grouped_by_verdict_and_by_reason() -> None:
    found = verdicts_of(
        [
            *study(BETTER, task="squad"),
            *study(BETTER, task="gsm8k"),
            *study(EQUAL, task="a", seeds=(2,)),
            *study(EQUAL, task="b", seeds=(2,)),
            *study(dict.fromkeys(VARIANTS, 0.5), task="parity"),
        ]
    )
    assert lead.startswith(
        "Pausing helps on gsm8k and squad with these pretrained models: PausePT_PauseFT differs from"
    )
    assert " on gsm8k and PausePT_PauseFT differs from StdPT_StdFT by +20.0 points (95 % interval" in lead(found)
    assert lead(found).endswith(
        "Whether pausing helps cannot be judged on a and b because each variant has only one finetuning seed. On"
        " parity, it cannot be judged because no variant scores above guessing (50.0%)."
    )
