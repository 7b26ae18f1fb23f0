"""Sorts results into tasks and cells, and says what each cell is compared with: StdPT_StdFT on the same task.

Between ``collect`` (files) and everything that says or draws something.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from pause_megatron.errors import UserError
from pause_megatron.report.cells import VARIANTS, Cell, Difference, Setting
from pause_megatron.report.records import Evaluation

CHANCE = {"parity": 0.5, "lookup": 0.1, "piqa": 0.5, "hellaswag": 0.25}
"""What guessing scores, for tasks where the answer is one of a fixed number of choices; a result may state its own."""

LOWER_IS_BETTER = ("perplexity", "loss", "bits_per_byte")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """All cells of one task, in the order of :data:`MODELS`, then of M_ft and M_inf."""

    name: str
    metric: str
    cells: tuple[Cell, ...]
    chance: float | None

    @property
    def is_percentage(self) -> bool:
        """Whether the metric is a share, shown in percent."""
        return self.higher_is_better and all(0 <= cell.mean <= 1 for cell in self.cells)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return not any(word in self.metric for word in LOWER_IS_BETTER)

    @cached_property
    def matched(self) -> tuple[Cell, ...]:
        """The cells with M_inf = M_ft, which the four-variant table shows."""
        return tuple(cell for cell in self.cells if cell.setting.is_matched)

    def baseline_of(self, cell: Cell) -> Cell | None:
        """The StdPT_StdFT cell that ``cell`` is compared with; None for itself and where there is none."""
        for other in self.matched:
            same_attention = other.setting.prefix_attention == cell.setting.prefix_attention
            if other.setting.model == VARIANTS[0] and same_attention:
                return None if other is cell else other
        return None

    def finetuned_of(self, cell: Cell) -> Cell | None:
        """The same finetuned models with the pauses they were finetuned with; None where that was not measured."""
        return next((other for other in self.matched if other.setting == cell.setting.finetuned), None)

    @cached_property
    def compared(self) -> tuple[tuple[Cell, Cell, Difference], ...]:
        """Every matched cell that has a baseline, with that and its difference from it."""
        pairs = [(cell, self.baseline_of(cell)) for cell in self.matched]
        return tuple((cell, baseline, cell.minus(baseline)) for cell, baseline in pairs if baseline is not None)


def compare(evaluations: Iterable[Evaluation]) -> tuple[TaskResult, ...]:
    """Sort results into tasks and cells; tasks come in alphabetical order.

    Raises :class:`UserError` when two results cannot stand in one report: the same seed twice, seeds of differently
    pretrained models, one task under two metrics.
    """
    by_setting: dict[Setting, list[Evaluation]] = {}
    for evaluation in evaluations:
        by_setting.setdefault(_setting(evaluation), []).append(evaluation)
    cells = [_cell(setting, group) for setting, group in by_setting.items()]
    tasks = sorted({cell.setting.task for cell in cells})
    return tuple(_task_result(task, [cell for cell in cells if cell.setting.task == task]) for task in tasks)


def _setting(evaluation: Evaluation) -> Setting:
    placement_ft = evaluation.placement_ft
    return Setting(
        task=evaluation.task,
        model=evaluation.model,
        num_pauses_ft=evaluation.num_pauses_ft,
        num_pauses_inf=evaluation.num_pauses_inf,
        prefix_attention=evaluation.prefix_attention,
        fewest_pauses_ft=evaluation.fewest_pauses_ft,
        placement_ft=placement_ft,
        placement=evaluation.pause_placement if evaluation.num_pauses_inf else placement_ft,
        filler=evaluation.filler if evaluation.num_pauses_inf else None,
    )


def _cell(setting: Setting, group: list[Evaluation]) -> Cell:
    first = group[0]
    by_seed: dict[int | None, Evaluation] = {}
    for evaluation in group:
        if evaluation.pretraining != first.pretraining:
            raise UserError(
                f"{first.source} and {evaluation.source} are of one variant but of differently pretrained models;"
                " write one report for each"
            )
        if evaluation.seed in by_seed:
            raise UserError(
                f"{by_seed[evaluation.seed].source} and {evaluation.source} are the same measurement"
                f" ({setting.task}, {setting.model}, seed {evaluation.seed}); give one of them"
            )
        by_seed[evaluation.seed] = evaluation
    ordered = sorted(group, key=lambda evaluation: -1 if evaluation.seed is None else evaluation.seed)
    return Cell(setting=setting, evaluations=tuple(ordered))


def _task_result(task: str, cells: list[Cell]) -> TaskResult:
    evaluations = [evaluation for cell in cells for evaluation in cell.evaluations]
    metric = evaluations[0].primary_metric
    for evaluation in evaluations:
        if evaluation.primary_metric != metric:
            raise UserError(
                f"{evaluations[0].source} measures {task} by {metric}, {evaluation.source} by"
                f" {evaluation.primary_metric}; evaluate both alike"
            )
    stated = next((evaluation.chance for evaluation in evaluations if evaluation.chance is not None), None)
    return TaskResult(
        name=task,
        metric=metric,
        cells=tuple(sorted(cells, key=lambda cell: cell.setting.order)),
        chance=CHANCE.get(task) if stated is None else stated,
    )
