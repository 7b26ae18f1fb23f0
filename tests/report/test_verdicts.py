"""Verdicts, and every generated sentence, in a table of situations."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from pause_megatron.records.evaluation import EvaluationRecord, Metric
from pause_megatron.records.variants import VARIANTS
from pause_megatron.report.collect import Collected
from pause_megatron.report.document import Document, build_document
from pause_megatron.report.grouping import group_results
from pause_megatron.report.guessing import guessing
from pause_megatron.report.verdict_words import bound_text, lead
from pause_megatron.report.verdicts import Obstacle, Outcome, Verdicts, judge
from pause_megatron.report.write import render_files

from .inputs import evaluation, results
from .situations import BETTER, EQUAL, SITUATIONS, answered, study, with_own_items

CLAIMS = re.compile(r"\b(helps|hurts|helped|better|worse|higher|lower|significant\w*|collapses?|improves?)\b")
"""Words of a claim; a page without any verdict must not use them, except to define or to deny them."""
NO_CLAIMS = (
    "Whether pausing helps cannot be judged",
    "Whether a model collapses without pauses at inference cannot be judged",
    "A variant helps or hurts if",
    "A model collapses without pauses if",
    "lighter is better",
)


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
    is_wide = "remain possible" in text or "seeds excludes" in text
    assert not re.search(r"\| [+−][\d.]+ to [+][\d.]+ \|", text) or is_wide  # noqa: RUF001
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


def test_the_verdicts_table_says_why_no_variant_is_above_guessing() -> None:
    (row,) = report("constant and empty answers, one seed")[0].answer.tables[0].rows
    assert [cell.text for cell in row] == [
        "parity",
        "cannot be judged",
        "No variant is shown to score above guessing (50.0%); StdPT_StdFT and PausePT_StdFT give only empty answers;"
        " StdPT_PauseFT and PausePT_PauseFT give the same answer to every test item; and each variant has only one"
        " finetuning seed.",
    ]


def test_a_task_that_hides_wrong_answers_is_not_said_to_have_empty_ones() -> None:
    """LAMBADA scores the probability of the target, so a wrong answer has no text."""
    records = [
        answered(variant, [0.0] * 50, task="lambada", seed=seed, outputs=[""] * 50)
        for variant in ("stdpt_stdft", "pausept_pauseft")
        for seed in (1, 2)
    ]
    assert lead(verdicts_of(records)) == (
        "Whether pausing helps cannot be judged on lambada because no variant is shown to score above 0."
    )
    (verdict,) = verdicts_of(records).tasks
    assert [reason.obstacle for reason in verdict.reasons] == [Obstacle.NOT_ABOVE_GUESSING]


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


def test_a_task_whose_only_claims_are_of_hints_says_so() -> None:
    document, files = report("a gain with hints only")
    assert [badge.text for badge in document.badges] == ["helps with hints"]
    assert "Pausing helps" not in files["report.md"].decode()
    assert [badge.text for badge in report("a real gain")[0].badges] == ["helps"]


def test_the_bound_of_a_metric_without_percent_is_rounded_up() -> None:
    (task,) = group_results(
        results([evaluation("text", primary_metric="loss", metrics={"loss": Metric(value=3.0, stderr=0.1)})])
    )
    assert [bound_text(bound, task) for bound in (0.1231, 0.123, 12.31, 0.0)] == ["0.124", "0.123", "12.4", "0"]


def test_guessing_is_the_mean_over_seeds_with_other_items() -> None:
    """Of the first seed 70 % of the targets are alike, of the second 50 %."""
    records = []
    for seed, zeros in ((0, 7), (1, 5)):
        one = answered("stdpt_stdft", [1.0] * zeros + [0.0] * (10 - zeros), seed=seed)
        samples = [replace(sample, target=str(int(item >= zeros))) for item, sample in enumerate(one.samples)]
        records.append(with_own_items(replace(one, samples=tuple(samples))))
    (task,) = group_results(results(records))
    assert guessing(task.measurements[0], task).level == pytest.approx(0.6)


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
    assert lead(found).startswith(
        "Pausing helps on gsm8k and squad with these pretrained models: PausePT_PauseFT differs from"
    )
    assert " on gsm8k and PausePT_PauseFT differs from StdPT_StdFT by +20.0 points (95 % interval" in lead(found)
    assert lead(found).endswith(
        "Whether pausing helps cannot be judged on a and b because each variant has only one finetuning seed. On"
        " parity, it cannot be judged because no variant is shown to score above guessing (50.0%)."
    )
