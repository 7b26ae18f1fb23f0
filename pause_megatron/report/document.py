"""The report as one value: everything that is said, drawn and shown, before it becomes HTML or Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.report import ablations, comparisons, cost, curves, figures, pretraining, provenance, sweeps, tables
from pause_megatron.report.caveats import caveats
from pause_megatron.report.compare import TaskResult, compare
from pause_megatron.report.figures import Figure
from pause_megatron.report.provenance import Configuration
from pause_megatron.report.records import Collected
from pause_megatron.report.samples import Question, pick_questions
from pause_megatron.report.summary import summary
from pause_megatron.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report: tables and figures under one heading, and tables that are folded away at first."""

    anchor: str
    heading: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    folded: tuple[Table, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.tables or self.figures or self.folded)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report."""

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    questions: tuple[Question, ...]
    caveats: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    versions: Table
    tasks: tuple[TaskResult, ...]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [figure for section in self.sections for figure in section.figures]

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [table for section in self.sections for table in (*section.tables, *section.folded)]


def build_document(collected: Collected, *, title: str, samples_per_task: int) -> Document:
    """Compare, tabulate, draw and describe what was collected.

    Raises :class:`~pause_megatron.errors.UserError` when results cannot stand in one report (see ``compare``).
    """
    tasks = compare(collected.evaluations)
    sections = [
        _variants(tasks),
        _paper(tasks),
        _inference(tasks),
        _finetuning_pauses(tasks),
        _placements(tasks),
        _cost(tasks),
        *_pretraining(collected),
        _finetuning(tasks),
    ]
    return Document(
        title=title,
        summary=tuple(summary(collected, tasks)),
        sections=tuple(section for section in sections if section),
        questions=tuple(pick_questions(tasks, samples_per_task)),
        caveats=tuple(caveats(collected, tasks)),
        configurations=tuple(provenance.configurations(collected, tasks)),
        versions=provenance.versions_table(collected),
        tasks=tasks,
    )


def _variants(tasks: tuple[TaskResult, ...]) -> Section:
    if not tasks:
        return Section(anchor="variants", heading="The variants")
    significance, others = comparisons.significance_table(tasks), tables.metrics_table(tasks)
    return Section(
        anchor="variants",
        heading="The variants",
        tables=_present(tables.variants_table(tasks), significance),
        figures=tuple(figures.bar_figures(tasks)),
        folded=_present(tables.settings_table(tasks), others),
    )


def _paper(tasks: tuple[TaskResult, ...]) -> Section:
    table = comparisons.paper_table(tasks)
    return Section(anchor="paper", heading="Beside the published numbers", tables=_present(table))


def _inference(tasks: tuple[TaskResult, ...]) -> Section:
    return Section(
        anchor="inference",
        heading="Pauses at inference",
        tables=_present(ablations.robustness_table(tasks)),
        figures=(*sweeps.inference_figures(tasks), *sweeps.heat_maps(tasks)),
    )


def _finetuning_pauses(tasks: tuple[TaskResult, ...]) -> Section:
    charts = tuple(sweeps.finetuning_pauses_figures(tasks))
    return Section(anchor="finetuning-pauses", heading="Pauses in finetuning", figures=charts)


def _placements(tasks: tuple[TaskResult, ...]) -> Section:
    found = _present(ablations.placement_table(tasks), ablations.filler_table(tasks))
    return Section(anchor="placements", heading="Placement and fillers", tables=found)


def _cost(tasks: tuple[TaskResult, ...]) -> Section:
    table, charts = _present(cost.cost_table(tasks)), tuple(sweeps.cost_figures(tasks))
    return Section(anchor="cost", heading="At equal cost", tables=table, figures=charts)


def _present(*found: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in found if table is not None)


def _pretraining(collected: Collected) -> list[Section]:
    if not collected.runs:
        return []
    validation = pretraining.validation_table(collected.runs)
    charts = (*curves.training_figures(collected.runs), *curves.validation_figures(collected.runs))
    return [
        Section(
            anchor="pretraining",
            heading="Pretraining",
            tables=_present(validation, pretraining.pretraining_table(collected.runs)),
            figures=charts,
        )
    ]


def _finetuning(tasks: tuple[TaskResult, ...]) -> Section:
    return Section(anchor="finetuning", heading="Finetuning", figures=tuple(curves.finetuning_figures(tasks)))
