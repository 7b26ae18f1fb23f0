"""The report as one value, before it becomes HTML, Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.records.variants import VARIANTS
from pause_megatron.report.caveats import caveats
from pause_megatron.report.collect import Collected
from pause_megatron.report.elements import Figure, Section, Table, with_unique_names
from pause_megatron.report.grouping import group_results
from pause_megatron.report.labels import counted, listed, model_label, rounded
from pause_megatron.report.measurements import TaskResult
from pause_megatron.report.provenance import Configuration, configurations, versions_table
from pause_megatron.report.run_groups import group_runs
from pause_megatron.report.sections.cost import cost_section
from pause_megatron.report.sections.diagnosis import diagnosis_section
from pause_megatron.report.sections.finetuning import finetuning_section
from pause_megatron.report.sections.pauses import finetuning_pauses_section, inference_section
from pause_megatron.report.sections.placement import placement_section
from pause_megatron.report.sections.pretraining import pretraining_section, pretraining_sentence
from pause_megatron.report.sections.published import published_section
from pause_megatron.report.sections.reproductions import reproductions_section
from pause_megatron.report.sections.samples import Question, pick_questions
from pause_megatron.report.sections.variants import bar_figures, variants_section, verdicts_table
from pause_megatron.report.verdict_words import TERMS, lead, removal_sentences, task_outcome_text, task_sentence
from pause_megatron.report.verdicts import Verdicts, judge


@dataclass(frozen=True, kw_only=True)
class Badge:
    """Verdict of one task in a few words, for the first screen."""

    task: str
    text: str
    kind: str
    """Style class: "helps" or "no-difference", for example."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A complete report."""

    title: str
    lead: str
    """The answer to the question of the title."""
    terms: tuple[str, ...]
    """Definitions of the terms of the page."""
    answer: Section
    """Verdict of each task and the charts of the variants, for the first screen."""
    details: tuple[str, ...]
    """Paragraphs with inputs, scores and verdicts in words."""
    verdicts: Verdicts
    sections: tuple[Section, ...]
    questions: tuple[Question, ...]
    caveats: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    versions: Table
    tasks: tuple[TaskResult, ...]

    @property
    def badges(self) -> list[Badge]:
        """The verdict of each task."""
        return [
            Badge(
                task=verdict.task.name,
                text=task_outcome_text(verdict),
                kind=verdict.outcome.name.lower().replace("_", "-"),
            )
            for verdict in self.verdicts.tasks
        ]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [figure for section in (self.answer, *self.sections) for figure in section.figures]

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        found = [table for section in (self.answer, *self.sections) for table in (*section.tables, *section.folded)]
        return [table for table in found if table.rows]


def build_document(collected: Collected, *, title: str, samples_per_task: int) -> Document:
    """Compare, tabulate, draw and describe the inputs of a report; raises an error as :func:`group_results`."""
    tasks = group_results(collected.evaluations)
    verdicts = judge(tasks)
    sections = (
        Section(
            anchor="verdicts", heading="Verdicts", tables=(verdicts_table(verdicts),), figures=tuple(bar_figures(tasks))
        ),
        variants_section(tasks, verdicts),
        published_section(tasks),
        reproductions_section(collected.reproductions),
        inference_section(tasks, verdicts),
        finetuning_pauses_section(tasks),
        placement_section(tasks),
        cost_section(tasks),
        pretraining_section(collected.runs),
        finetuning_section(tasks),
        diagnosis_section(collected.diagnoses),
    )
    answer, *others = with_unique_names(sections)
    return Document(
        title=title,
        lead=lead(verdicts),
        terms=TERMS,
        answer=answer,
        details=tuple(details(collected, verdicts)),
        verdicts=verdicts,
        sections=tuple(section for section in others if section),
        questions=tuple(pick_questions(tasks, samples_per_task)),
        caveats=tuple(caveats(collected, verdicts)),
        configurations=tuple(configurations(collected, tasks)),
        versions=versions_table(collected),
        tasks=tasks,
    )


def details(collected: Collected, verdicts: Verdicts) -> list[str]:
    """Return the paragraphs below the answer: inputs, each task, models without their pauses, pretraining."""
    tasks = [verdict.task for verdict in verdicts.tasks]
    paragraphs = [text] if (text := _inputs(collected, tasks)) else []
    paragraphs += [task_sentence(verdict, tasks) for verdict in verdicts.tasks]
    paragraphs += removal_sentences(verdicts)
    if collected.runs:
        paragraphs.append(pretraining_sentence(collected.runs))
    return paragraphs


def _inputs(collected: Collected, tasks: Sequence[TaskResult]) -> str:
    sentences = []
    if tasks:
        models = {measurement.setting.model for task in tasks for measurement in task.measurements}
        named = [model_label(model) for model in VARIANTS if model in models]
        named += [model_label(model) for model in sorted(models - set(VARIANTS))]
        names = listed([task.name for task in tasks])
        sentences.append(f"Compared on {counted(len(tasks), 'task')} ({names}): {listed(named)}.")
    for group in group_runs(collected.runs):
        run, seeds = group.first, f", with {len(group.runs)} seeds" if len(group.runs) > 1 else ""
        data = f"{rounded(run.last.real_tokens)} real tokens"
        if run.last.pause_tokens:
            data += f" and {rounded(run.last.pause_tokens)} pauses"
        sentences.append(
            f"{group.label} is a model of {rounded(run.record.parameters)} parameters pretrained on {data}{seeds}."
        )
    return " ".join(sentences)
