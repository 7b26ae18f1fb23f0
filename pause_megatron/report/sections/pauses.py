"""Number of pauses: scores over M_inf and over M_ft, and which models collapse without pauses."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from pause_megatron.report import elements, labels
from pause_megatron.report.drawing import Tile, draw_heat_map
from pause_megatron.report.elements import Figure, ScoreSeries, Section, Table, TableCell
from pause_megatron.report.guessing import guessing
from pause_megatron.report.measured_settings import Setting
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.removals import KEPT_SHARE, inference_series, kept_share
from pause_megatron.report.verdict_words import reasons_text, removal_outcome
from pause_megatron.report.verdicts import RemovalVerdict, Verdicts


def inference_section(tasks: Sequence[TaskResult], verdicts: Verdicts) -> Section:
    """Build the section on M_inf; it is empty unless some model was measured with several M_inf."""
    return Section(
        anchor="inference",
        heading="Pauses at inference",
        tables=(robustness_table(tasks, verdicts),),
        figures=(*inference_figures(tasks), *heat_maps(tasks, verdicts)),
    )


def finetuning_pauses_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section on M_ft; it is empty unless some model was finetuned with several M_ft."""
    figures = tuple(finetuning_pauses_figures(tasks))
    return Section(anchor="finetuning-pauses", heading="Pauses in finetuning", figures=figures)


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
    groups = _by_pretrained(one for one in task.measurements if one.setting.has_own_inputs)
    return {
        label: measurements
        for label, measurements in groups.items()
        if sum(number > 1 for number in Counter(labels.pauses_label(one.setting) for one in measurements).values()) > 1
    }


def _by_pretrained(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    """Group models with appended pauses by pretrained model, inputs at pauses and hints, and by attention if there are
    several."""
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for measurement in measurements:
        setting = measurement.setting
        if setting.num_pauses_ft is not None and setting.placement_ft == setting.placement == "append":
            kind = labels.inputs_label(setting) + labels.hints_label(setting)
            key = _pretrained_label(setting), kind, setting.prefix_attention
            groups.setdefault(key, []).append(measurement)
    several = len({attention for *_, attention in groups}) > 1
    return {
        f"{pretrained}{kind}, {attention} prefix" if several else f"{pretrained}{kind}": found
        for (pretrained, kind, attention), found in groups.items()
    }


def _pretrained_label(setting: Setting) -> str:
    """StdPT or PausePT, with the pretrained model's name if the report has several of this variant."""
    kind = labels.model_label(setting.model).partition("_")[0]
    return f"{kind} ({setting.pretrained})" if setting.pretrained else kind


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


def heat_maps(tasks: Sequence[TaskResult], verdicts: Verdicts) -> list[Figure]:
    """Draw score over M_ft and M_inf, a map for each pretrained model that was measured at several of both."""
    collapsed = [one.removal.without for one in verdicts.removals if one.collapses]
    return [_heat_map(task, *found, collapsed) for task in tasks for found in heat_map_measurements(task).items()]


def _heat_map(
    task: TaskResult, pretrained: str, measurements: Sequence[Measurement], collapsed: Sequence[Measurement]
) -> Figure:
    rows = list(dict.fromkeys(labels.pauses_label(one.setting) for one in measurements))
    columns = sorted({one.setting.num_pauses_inf for one in measurements})
    tiles = [
        Tile(
            row=rows.index(labels.pauses_label(one.setting)),
            column=columns.index(one.setting.num_pauses_inf),
            value=one.mean if task.higher_is_better else -one.mean,
            text=labels.value(one.mean, task) + (" ▼" if any(one is other for other in collapsed) else ""),
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


def robustness_table(tasks: Sequence[TaskResult], verdicts: Verdicts) -> Table:
    """Tabulate how models finetuned with pauses score with other numbers of pauses."""
    rows = [row for task in tasks for row in _robustness_rows(task, tasks, verdicts)]
    return Table(
        name="robustness",
        caption="Models finetuned with pauses, evaluated with fewer or more of them. A model collapses without pauses"
        " if it keeps less than half of its score above chance level (above zero if chance level is unknown), and does"
        " not if it keeps more; with neither shown by the test, this cannot be judged. The last column is not tested:"
        " it lists every other M_inf at which the mean keeps half.",
        columns=("Model", "Task", "M_inf = M_ft", "M_inf = 0", "Difference", "Without pauses", "Keeps half at M_inf"),
        words=("Task", "Without pauses", "Keeps half at M_inf"),
        rows=tuple(rows),
    )


def _robustness_rows(
    task: TaskResult, tasks: Sequence[TaskResult], verdicts: Verdicts
) -> Iterator[tuple[TableCell, ...]]:
    removed = {id(one.removal.finetuned): one for one in verdicts.removals}
    for measurements in inference_series(task):
        finetuned = task.matched_of(measurements[0])
        if finetuned is None or not finetuned.setting.num_pauses_ft:
            continue
        shares = {one.setting.num_pauses_inf: kept_share(one, finetuned, task)
                  for one in measurements if one is not finetuned}  # fmt: skip
        keeping = [str(pauses) for pauses, kept in shares.items() if kept is not None and kept >= KEPT_SHARE]
        unknown = guessing(finetuned, task).position != "above" or all(kept is None for kept in shares.values())
        yield (
            elements.model_cell(finetuned, labels.series_label(finetuned.setting, task)),
            TableCell(text=task.name, note=labels.metric_label(task)),
            TableCell(text=labels.with_interval(finetuned, task)),
            *_removal_cells(removed.get(id(finetuned)), task, tasks),
            TableCell(text=labels.NOTHING if unknown else ", ".join(keeping) or "none other"),
        )


def _removal_cells(
    verdict: RemovalVerdict | None, task: TaskResult, tasks: Sequence[TaskResult]
) -> tuple[TableCell, ...]:
    if verdict is None:
        return elements.text_cells(labels.NOTHING, labels.NOTHING, labels.NOTHING)
    removal = verdict.removal
    kept = f"keeps {max(removal.kept, 0):.0%}" if verdict.collapses is not None and removal.kept is not None else ""
    return (
        TableCell(text=labels.with_interval(removal.without, task)),
        TableCell(text=labels.signed(removal.difference.value, task)),
        TableCell(text=removal_outcome(verdict), note=kept or reasons_text(verdict.reasons, verdict.task, tasks)),
    )
