"""Number of pauses: scores over M_inf and over M_ft, and which models collapse without pauses."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pause_megatron.report import elements, labels
from pause_megatron.report.drawing import Tile, draw_heat_map
from pause_megatron.report.elements import Figure, ScoreSeries, Section, Table, TableCell
from pause_megatron.report.measurements import Measurement, Setting, TaskResult
from pause_megatron.report.uncertainty import Difference

COLLAPSE = 0.5  # a model without pauses collapses if it keeps less than this share of its score above chance level
MOST_NAMED = 4  # models that a sentence names one by one


def inference_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section on M_inf; it is empty unless some model was measured with several M_inf."""
    return Section(
        anchor="inference",
        heading="Pauses at inference",
        tables=(robustness_table(tasks),),
        figures=(*inference_figures(tasks), *heat_maps(tasks)),
    )


def finetuning_pauses_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section on M_ft; it is empty unless some model was finetuned with several M_ft."""
    figures = tuple(finetuning_pauses_figures(tasks))
    return Section(anchor="finetuning-pauses", heading="Pauses in finetuning", figures=figures)


def inference_series(task: TaskResult) -> list[list[Measurement]]:
    """Return the measurements of each finetuned model with several M_inf, in the order of M_inf; no fillers."""
    series: dict[tuple[Setting, str], list[Measurement]] = {}
    for measurement in task.measurements:
        setting = measurement.setting
        if setting.filler is None:
            series.setdefault((setting.matched, setting.placement), []).append(measurement)
    return [measurements for measurements in series.values() if len(measurements) > 1]


def finetuning_series(task: TaskResult) -> dict[str, list[Measurement]]:
    """Return the matched measurements of each pretrained model with several fixed M_ft, appended, in their order."""
    groups = _by_pretrained(one for one in task.matched if one.setting.min_num_pauses_ft is None)
    return {
        label: measurements
        for label, measurements in groups.items()
        if sum(bool(one.setting.num_pauses_ft) for one in measurements) > 1
    }


def heat_map_measurements(task: TaskResult) -> dict[str, list[Measurement]]:
    """Return the measurements of each pretrained model for which at least two M_ft have several M_inf."""
    groups = _by_pretrained(one for one in task.measurements if one.setting.filler is None)
    return {
        label: measurements
        for label, measurements in groups.items()
        if sum(number > 1 for number in Counter(labels.pauses_label(one.setting) for one in measurements).values()) > 1
    }


def _by_pretrained(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    """Group finetuned models with appended pauses by pretrained model, and by attention if there are several."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        setting = measurement.setting
        if setting.num_pauses_ft is not None and setting.placement_ft == setting.placement == "append":
            groups.setdefault((_pretrained_label(setting), setting.prefix_attention), []).append(measurement)
    several = len({attention for _, attention in groups}) > 1
    return {
        f"{pretrained}, {attention} prefix" if several else pretrained: found
        for (pretrained, attention), found in groups.items()
    }


def _pretrained_label(setting: Setting) -> str:
    return labels.model_label(setting.model).partition("_")[0]


def inference_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Draw score against M_inf: a chart for each pretrained model on each task, a line for each finetuned model."""
    figures = []
    for task in tasks:
        by_pretrained: dict[str, list[ScoreSeries]] = {}
        for measurements in inference_series(task):
            setting = measurements[0].setting
            points = [(float(one.setting.num_pauses_inf), one) for one in measurements]
            series = ScoreSeries(labels.series_label(setting, task), elements.color_of(measurements[0]), points)
            by_pretrained.setdefault(_pretrained_label(setting), []).append(series)
        caption = f"Finetuned models with fewer or more pauses at inference. {elements.WHISKERS}"
        figures += [
            elements.score_figure(task, "inference", caption, lines, "M_inf, pauses at inference", pretrained)
            for pretrained, lines in by_pretrained.items()
        ]
    return figures


def finetuning_pauses_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Draw score against M_ft with M_inf = M_ft, for each task with models finetuned with several M_ft."""
    caption = f"M_inf = M_ft; 0 is finetuning without pauses. {elements.WHISKERS}"
    x_label = "M_ft, pauses in finetuning"
    return figures_over_finetuning(
        tasks, "finetuning-pauses", caption, x_label, lambda one: one.setting.num_pauses_ft or 0
    )


def figures_over_finetuning(
    tasks: Sequence[TaskResult], kind: str, caption: str, x_label: str, x_of: Callable[[Measurement], float]
) -> list[Figure]:
    """Draw score against ``x_of(measurement)`` for the lines of :func:`finetuning_series`, a chart for each task."""
    figures = []
    for task in tasks:
        found = finetuning_series(task)
        lines = [
            ScoreSeries(label, color, [(float(x_of(one)), one) for one in measurements])
            for (label, measurements), color in zip(found.items(), elements.pretrained_colors(found), strict=True)
        ]
        if lines:
            figures.append(elements.score_figure(task, kind, caption, lines, x_label))
    return figures


def heat_maps(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Draw score over M_ft and M_inf, a map for each pretrained model that was measured at several of both."""
    return [_heat_map(task, *found) for task in tasks for found in heat_map_measurements(task).items()]


def _heat_map(task: TaskResult, pretrained: str, measurements: Sequence[Measurement]) -> Figure:
    rows = list(dict.fromkeys(labels.pauses_label(one.setting) for one in measurements))
    columns = sorted({one.setting.num_pauses_inf for one in measurements})
    collapsed = {removal.without.setting for removal in removals(task) if removal.is_collapse}
    tiles = [
        Tile(
            row=rows.index(labels.pauses_label(one.setting)),
            column=columns.index(one.setting.num_pauses_inf),
            value=one.mean if task.higher_is_better else -one.mean,
            text=labels.value(one.mean, task) + (" ▼" if one.setting in collapsed else ""),
            framed=one.setting.is_matched,
        )
        for one in measurements
    ]
    name = f"heat-map-{elements.slug(task.name)}-{elements.slug(pretrained)}"
    scores = "; ".join(
        f"M_ft {labels.pauses_label(one.setting)}, M_inf {one.setting.num_pauses_inf}: {labels.value(one.mean, task)}"
        for one in measurements
    )
    alt = f"Heat map of {labels.metric_label(task)} on {task.name} after {pretrained}: {scores}"
    columns_label, rows_label = "M_inf, pauses at inference", "M_ft, in finetuning"
    return Figure(
        name=name,
        title=f"{task.name}, {pretrained}",
        caption=f"{labels.metric_label(task)}; lighter is better, and a frame marks M_inf = M_ft."
        + (" ▼: collapses without pauses." if any("▼" in tile.text for tile in tiles) else ""),
        alt=alt,
        picture=draw_heat_map(name, alt, tiles, rows, list(map(str, columns)), columns_label, rows_label),
        data=elements.measurements_csv(task, measurements),
    )


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A model finetuned with pauses, evaluated with them and without."""

    finetuned: Measurement
    """With the pauses of its finetuning."""
    without: Measurement
    """With M_inf = 0."""
    difference: Difference
    """``without`` minus ``finetuned``."""
    kept: float | None
    """Kept share of the score above chance level, see :func:`kept_share`."""

    @property
    def is_collapse(self) -> bool:
        """Whether the model keeps less than half, and the loss is significant."""
        return self.difference.is_significant and self.kept is not None and self.kept < COLLAPSE


def kept_share(measurement: Measurement, finetuned: Measurement, task: TaskResult) -> float | None:
    """Return the share of ``finetuned``'s score above chance level that ``measurement`` keeps; None if it has none."""
    floor = task.chance_level or 0.0  # 0 if it is unknown
    gained = finetuned.mean - floor
    return (measurement.mean - floor) / gained if task.higher_is_better and gained > 0 else None


def removals(task: TaskResult) -> list[Removal]:
    """Return every model finetuned with pauses that was evaluated both with as many and without any."""
    found = []
    for measurements in inference_series(task):
        finetuned = task.matched_of(measurements[0])
        without = next((one for one in measurements if not one.setting.num_pauses_inf), None)
        if finetuned is None or without is None or not finetuned.setting.num_pauses_ft:
            continue
        difference, kept = without.minus(finetuned), kept_share(without, finetuned, task)
        found.append(Removal(finetuned=finetuned, without=without, difference=difference, kept=kept))
    return found


def robustness_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate how models finetuned with pauses score with other numbers of pauses."""
    rows = [row for task in tasks for row in _robustness_rows(task)]
    return Table(
        name="robustness",
        caption="Models finetuned with pauses, evaluated with fewer or more of them. A model keeps half if its score"
        " above chance level (above zero if chance level is unknown) is at least half of that with M_inf = M_ft. A"
        " model collapses without pauses if it does not keep half and the loss is significant (95 %).",
        columns=("Model", "Task", "M_inf = M_ft", "M_inf = 0", "Difference", "Without pauses", "Keeps half at M_inf"),
        words=("Task", "Without pauses", "Keeps half at M_inf"),
        rows=tuple(rows),
    )


def _robustness_rows(task: TaskResult) -> Iterator[tuple[TableCell, ...]]:
    removed = {removal.finetuned.setting: removal for removal in removals(task)}
    for measurements in inference_series(task):
        finetuned = task.matched_of(measurements[0])
        if finetuned is None or not finetuned.setting.num_pauses_ft:
            continue
        others = [one for one in measurements if one is not finetuned]
        keeping = [one for one in others if (kept_share(one, finetuned, task) or 0.0) >= COLLAPSE]
        yield (
            elements.model_cell(finetuned, labels.series_label(finetuned.setting, task)),
            TableCell(text=task.name, note=labels.metric_label(task)),
            TableCell(text=labels.with_error(finetuned, task)),
            *_removal_cells(removed.get(finetuned.setting), task),
            TableCell(text=", ".join(str(one.setting.num_pauses_inf) for one in keeping) or "none other"),
        )


def _removal_cells(removal: Removal | None, task: TaskResult) -> tuple[TableCell, ...]:
    if removal is None:
        return elements.text_cells(labels.NOTHING, labels.NOTHING, labels.NOTHING)
    outcome = "collapses" if removal.is_collapse else labels.significance(removal.difference)
    kept = "" if removal.kept is None else f"keeps {max(removal.kept, 0):.0%}"
    return (
        *elements.text_cells(labels.with_error(removal.without, task), labels.signed(removal.difference, task)),
        TableCell(text=outcome, note=kept),
    )


def removal_sentences(tasks: Sequence[TaskResult]) -> list[str]:
    """State which models finetuned with pauses collapse without them; empty if none was evaluated without."""
    measured = [(task, removal) for task in tasks for removal in removals(task)]
    collapsed = [(task, removal) for task, removal in measured if removal.is_collapse]
    if not measured:
        return []
    if not collapsed and len(measured) == 1:
        return ["Without pauses at inference, the only model finetuned with pauses does not collapse."]
    if not collapsed:
        return [f"Without pauses at inference, none of the {len(measured)} models finetuned with pauses collapses."]
    named = []
    for task, removal in collapsed[:MOST_NAMED]:
        label = labels.series_label(removal.finetuned.setting, task)
        before, after = labels.amount(removal.finetuned, task), labels.amount(removal.without, task)
        named.append(f"{label} on {task.name} (from {before} to {after})")
    if len(collapsed) > MOST_NAMED:
        named.append(f"{len(collapsed) - MOST_NAMED} more")
    number, verb = labels.counted(len(measured), "model"), "collapses" if len(collapsed) == 1 else "collapse"
    subject = f"{len(collapsed)} of {number} finetuned with pauses"
    return [f"Without pauses at inference, {subject} {verb}: {labels.listed(named)}."]
