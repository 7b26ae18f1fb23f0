"""What the number of pauses, their place and their kind do: series of cells that differ in one thing, and their tables.

``sweeps`` draws the series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pause_megatron.report.cells import Cell, Difference, Setting
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.labels import (
    NOTHING,
    PLACEMENT_LABELS,
    metric_label,
    model_label,
    pauses_label,
    series_label,
    signed,
    verdict,
    with_error,
)
from pause_megatron.report.tables import Entry, Table, model_entry

COLLAPSE = 0.5
"""Share of what pauses had brought above chance, below which a model without them has collapsed."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What becomes of a model finetuned with pauses when it is given none."""

    finetuned: Cell
    """With as many pauses as in finetuning."""
    without: Cell
    """With none."""
    difference: Difference
    """The latter minus the former."""
    kept: float | None
    """Share kept of what is above chance (above zero where chance is not known); None where there is nothing above."""

    @property
    def is_collapse(self) -> bool:
        """Whether less than half is kept, and that can be told from chance."""
        return self.difference.is_distinguishable and self.kept is not None and self.kept < COLLAPSE


def inference_series(task: TaskResult) -> list[list[Cell]]:
    """The cells of each finetuned model that was measured with several M_inf, by M_inf; no fillers."""
    series: dict[tuple[Setting, str], list[Cell]] = {}
    for cell in task.cells:
        if cell.setting.filler is None:
            series.setdefault((cell.setting.finetuned, cell.setting.placement), []).append(cell)
    return [cells for cells in series.values() if len(cells) > 1]


def finetuning_series(task: TaskResult) -> dict[str, list[Cell]]:
    """The matched cells of each pretrained model by M_ft, from finetuning without pauses on; appended pauses, a fixed
    number of them. Models with fewer than two numbers of pauses in finetuning are left out.
    """
    groups = _by_pretrained(cell for cell in task.matched if cell.setting.fewest_pauses_ft is None)
    return {
        label: cells for label, cells in groups.items() if sum(bool(cell.setting.num_pauses_ft) for cell in cells) > 1
    }


def heat_map_cells(task: TaskResult) -> dict[str, list[Cell]]:
    """The cells of each pretrained model over M_ft and M_inf, where several M_ft were measured at several M_inf."""
    groups = _by_pretrained(cell for cell in task.cells if cell.setting.filler is None)
    return {
        label: cells
        for label, cells in groups.items()
        if sum(number > 1 for number in Counter(pauses_label(cell.setting) for cell in cells).values()) > 1
    }


def _by_pretrained(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Finetuned models' cells with appended pauses, by pretrained model, and by attention where it varies."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        setting = cell.setting
        if setting.num_pauses_ft is not None and setting.placement_ft == setting.placement == "append":
            groups.setdefault((pretrained_model(setting), setting.prefix_attention), []).append(cell)
    several = len({attention for _, attention in groups}) > 1
    return {
        f"{pretrained}, {attention} prefix" if several else pretrained: found
        for (pretrained, attention), found in groups.items()
    }


def pretrained_model(setting: Setting) -> str:
    """StdPT or PausePT: a variant without its finetuning."""
    return model_label(setting.model).partition("_")[0]


def kept_share(cell: Cell, finetuned: Cell, task: TaskResult) -> float | None:
    """Share of what ``finetuned`` scores above chance (above zero where chance is not known) that ``cell`` keeps; None
    where there is nothing above it, and where lower is better.
    """
    floor = task.chance or 0.0
    gained = finetuned.mean - floor
    return (cell.mean - floor) / gained if task.higher_is_better and gained > 0 else None


def removals(task: TaskResult) -> list[Removal]:
    """Every model finetuned with pauses that was measured with as many and with none."""
    found = []
    for cells in inference_series(task):
        finetuned = task.finetuned_of(cells[0])
        without = next((cell for cell in cells if not cell.setting.num_pauses_inf), None)
        if finetuned is None or without is None or not finetuned.setting.num_pauses_ft:
            continue
        kept = kept_share(without, finetuned, task)
        difference = without.minus(finetuned)
        found.append(Removal(finetuned=finetuned, without=without, difference=difference, kept=kept))
    return found


def robustness_table(tasks: Sequence[TaskResult]) -> Table | None:
    """How each model finetuned with pauses bears other numbers of them; None where none was measured with several."""
    rows = [row for task in tasks for row in _robustness_rows(task)]
    if not rows:
        return None
    return Table(
        name="robustness",
        caption="Models finetuned with pauses and given fewer or more of them. Keeping half means scoring at least half"
        " as far above chance (above zero where chance is not known) as with M_inf = M_ft. A model collapses without"
        " pauses when it does not keep half and the loss can be told from none (95 %).",
        columns=(
            *("Model", "Task", "M_inf = M_ft", "M_inf = 0", "Difference", "Without pauses"),
            "Keeps half at M_inf",
        ),
        words=("Task", "Without pauses", "Keeps half at M_inf"),
        rows=tuple(rows),
    )


def _robustness_rows(task: TaskResult) -> Iterator[tuple[Entry, ...]]:
    removed = {removal.finetuned.setting: removal for removal in removals(task)}
    for cells in inference_series(task):
        finetuned = task.finetuned_of(cells[0])
        if finetuned is None or not finetuned.setting.num_pauses_ft:
            continue
        removal = removed.get(finetuned.setting)
        shares = {
            cell.setting.num_pauses_inf: kept_share(cell, finetuned, task) for cell in cells if cell is not finetuned
        }
        keeping = [str(number) for number, share in shares.items() if share is not None and share >= COLLAPSE]
        yield (
            model_entry(finetuned, series_label(finetuned.setting, task)),
            Entry(text=task.name, note=metric_label(task)),
            Entry(text=with_error(finetuned, task)),
            *(
                (Entry(text=NOTHING),) * 3
                if removal is None
                else (
                    Entry(text=with_error(removal.without, task)),
                    Entry(text=signed(removal.difference, task)),
                    Entry(text=_removal_verdict(removal), note=_kept(removal)),
                )
            ),
            Entry(text=", ".join(keeping) or "none other"),
        )


def _removal_verdict(removal: Removal) -> str:
    return "collapses" if removal.is_collapse else verdict(removal.difference)


def _kept(removal: Removal) -> str:
    return "" if removal.kept is None else f"keeps {max(removal.kept, 0):.0%}"


def placement_table(tasks: Sequence[TaskResult]) -> Table | None:
    """Appended pauses beside those that stand elsewhere, matched; None where all stand in the same place."""
    cells = [(task, cell) for task in tasks for cell in task.matched if cell.setting.num_pauses_ft]
    placements = [name for name in PLACEMENT_LABELS if any(cell.setting.placement == name for _, cell in cells)]
    if len(placements) < 2:
        return None
    groups: dict[tuple[str, Setting], dict[str, Cell]] = {}
    for task, cell in cells:
        key = task.name, replace(cell.setting, placement_ft="append", placement="append")
        groups.setdefault(key, {})[cell.setting.placement] = cell
    by_name = {task.name: task for task in tasks}
    rows = [
        (
            model_entry(next(iter(found.values()))),
            Entry(text=name, note=metric_label(by_name[name])),
            Entry(text=pauses_label(setting)),
            *(_beside(found.get(placement), found.get("append"), by_name[name]) for placement in placements),
        )
        for (name, setting), found in groups.items()
        if len(found) > 1
    ]
    if not rows:
        return None
    return Table(
        name="placements",
        caption="Where the pauses stand, M_inf = M_ft; under each number its difference from appended pauses.",
        columns=("Variant", "Task", "M_ft", *(PLACEMENT_LABELS[placement].capitalize() for placement in placements)),
        words=("Task",),
        rows=tuple(rows),
    )


def filler_table(tasks: Sequence[TaskResult]) -> Table | None:
    """Models given filler tokens at inference, beside what they score with their own pauses; None without fillers."""
    rows = []
    for task in tasks:
        for cell in task.cells:
            if cell.setting.filler is None:
                continue
            finetuned = task.finetuned_of(cell)
            rows.append(
                (
                    model_entry(cell),
                    Entry(text=task.name, note=metric_label(task)),
                    Entry(text=pauses_label(cell.setting)),
                    Entry(text=NOTHING if finetuned is None else with_error(finetuned, task)),
                    Entry(text=f"{cell.setting.num_pauses_inf} x '{cell.setting.filler}'"),
                    _beside(cell, finetuned, task),
                )
            )
    if not rows:
        return None
    return Table(
        name="fillers",
        caption="Filler tokens in place of pauses, at inference only: beside the same models paused as in finetuning,"
        " with the difference from that.",
        columns=("Variant", "Task", "M_ft", "M_inf = M_ft", "Filler", "With filler"),
        words=("Task", "Filler"),
        rows=tuple(rows),
    )


def _beside(cell: Cell | None, reference: Cell | None, task: TaskResult) -> Entry:
    """A cell's score with its difference from ``reference``, and what may be said of that."""
    if cell is None:
        return Entry(text=NOTHING)
    if reference is None or cell is reference:
        return Entry(text=with_error(cell, task))
    difference = cell.minus(reference)
    return Entry(text=with_error(cell, task), note=f"{signed(difference, task)}, {verdict(difference)}")
