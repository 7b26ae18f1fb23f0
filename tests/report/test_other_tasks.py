"""Reports of tasks that do not come with this project, and of prompts with other wordings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pause_megatron.errors import UserError
from pause_megatron.records.evaluation import EvaluationRecord, Metric, PromptingRecord, TaskDefinitionRecord
from pause_megatron.report.guessing import guessing

from .inputs import evaluation, grouped, with_scores
from .test_sentences import sentences

DEFINITION = TaskDefinitionRecord(source="file", sha256="0" * 64, output_type="multiple_choice", higher_is_better=True)
FEW_SHOT = PromptingRecord(
    num_fewshot=5,
    chat_template=True,
    fewshot_as_multiturn=True,
    system_instruction="Be brief.",
    gen_kwargs={"top_k": 3},
)


def quiz(variant: str = "stdpt_stdft", **others: object) -> EvaluationRecord:
    return replace(evaluation("quiz", variant), **{"definition": DEFINITION, **others})


def test_a_task_has_the_chance_of_its_choices_and_none_that_is_not_known() -> None:
    (known,) = grouped(quiz(chance=0.2), quiz("pausept_pauseft"))
    (unknown,) = grouped(quiz())
    assert (known.chance_level, unknown.chance_level) == (0.2, None)


def test_the_chance_of_a_task_of_this_project_is_not_that_of_another_of_its_name() -> None:
    (own,) = grouped(evaluation("piqa"))
    (other,) = grouped(replace(evaluation("piqa"), definition=DEFINITION))
    assert (own.chance_level, other.chance_level) == (0.5, None)


def test_two_definitions_of_one_name_are_not_compared() -> None:
    other = replace(DEFINITION, sha256="1" * 64)
    with pytest.raises(UserError, match=r"their definitions of quiz differ; give one of them another name"):
        grouped(quiz(), quiz("pausept_pauseft", definition=other))
    with pytest.raises(UserError, match=r"their definitions of quiz differ"):
        grouped(quiz(), quiz("pausept_pauseft", definition=None))


def test_other_wordings_of_a_prompt_are_other_tasks() -> None:
    tasks = grouped(quiz(), quiz(prompting=FEW_SHOT), quiz("pausept_pauseft", prompting=FEW_SHOT))
    few_shot = "quiz (5-shot in turns, chat template, system instruction Be brief., top_k=3)"
    assert [task.name for task in tasks] == ["quiz", few_shot]
    assert [len(task.measurements) for task in tasks] == [1, 2]


def test_long_system_instructions_with_the_same_beginning_are_told_apart() -> None:
    one, two = (
        replace(FEW_SHOT, system_instruction="You are a patient teacher of mathematics. " + end) for end in ("A", "B")
    )
    assert one.label != two.label
    assert len(one.label) < 120


def test_the_definition_says_which_direction_is_better() -> None:
    errors = {"primary_metric": "word_errors", "metrics": {"word_errors": Metric(value=0.3, stderr=0.01)}}
    (task,) = grouped(quiz(**errors, definition=replace(DEFINITION, higher_is_better=False)))
    assert not task.higher_is_better
    (task,) = grouped(quiz(**errors, definition=replace(DEFINITION, higher_is_better=None)))
    assert task.higher_is_better


def test_a_wrong_answer_of_a_scored_word_is_not_an_empty_answer() -> None:
    record = with_scores(quiz(), [0.0, 1.0, 0.0])
    record = replace(record, samples=tuple(replace(sample, output="") for sample in record.samples))
    for kind, is_empty in (("generate_until", True), ("loglikelihood", False)):
        (task,) = grouped(replace(record, definition=replace(DEFINITION, output_type=kind)))
        assert guessing(task.measurements[0], task).is_empty == is_empty


def test_without_a_known_chance_nothing_is_said_about_guessing() -> None:
    records = [with_scores(quiz(variant), [0.0] * 40) for variant in ("stdpt_stdft", "pausept_pauseft")]
    for chance, words in ((None, "above 0, so"), (0.25, "above guessing, so")):
        _, limits = sentences(*(replace(record, chance=chance) for record in records))
        assert f"On quiz, no model is shown to score {words} there is no skill to compare" in limits


def test_results_without_scores_of_items_are_not_paired() -> None:
    record = with_scores(quiz(), [1.0, 0.0, 1.0])
    record = replace(record, samples=tuple(replace(sample, correct=None) for sample in record.samples))
    (task,) = grouped(record)
    assert task.measurements[0].item_scores is None
    _, limits = sentences(record)
    assert "is not the mean of its samples" not in limits
