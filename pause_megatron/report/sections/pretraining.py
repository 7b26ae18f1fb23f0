"""Pretraining: the runs, their losses on training and held-out text, and the losses at equal cost."""

import statistics
from collections.abc import Callable, Sequence

from pause_megatron.records.pretraining import perplexity
from pause_megatron.report import elements
from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.elements import Figure, Section, Table, TableCell
from pause_megatron.report.labels import MINUS, NOTHING, listed
from pause_megatron.report.paired_losses import LossDifference, loss_difference
from pause_megatron.report.run_groups import (
    Curve,
    RunGroup,
    fact_of,
    group_runs,
    has_repetitions,
    loss_text,
    mean_curve,
    own_text,
    scatter_note,
)
from pause_megatron.report.sections.loss_curves import loss_figure, means_over_seeds, model_lines
from pause_megatron.report.sections.pretraining_cost import equal_cost_figures, equal_cost_table

OWN_TEXT_NOTE = (
    " In the last rows each model reads the held-out text as it read its training text, with its own pauses. A sequence"
    " with pauses then holds fewer real tokens, so that its targets can have less text before them."
)


def pretraining_section(runs: tuple[PretrainRun, ...]) -> Section:
    """Build the section on pretraining; it is empty without runs."""
    if not runs:
        return Section(anchor="pretraining", heading="Pretraining")
    tables = [validation_table(runs), differences_table(runs), pretraining_table(runs)]
    figures = [training_figure(runs), *validation_figures(runs)]
    if len(runs) > 1 and (sets := validation_sets(runs)):
        first = next(iter(sets))
        tables.insert(2, equal_cost_table(runs, first))
        figures += equal_cost_figures(runs, first)
    return Section(anchor="pretraining", heading="Pretraining", tables=tuple(tables), figures=tuple(figures))


def pretraining_table(runs: tuple[PretrainRun, ...]) -> Table:
    """Tabulate configuration and outcome of each model: facts as rows, models as columns."""
    groups = group_runs(runs)
    rows: dict[str, Callable[[PretrainRun], str]] = {
        "Parameters": lambda run: f"{run.record.parameters:,}",
        "Layout": layout,
        "Processes": lambda run: f"{run.record.world_size:,}",
        "ZeRO": lambda run: f"stage {run.record.zero_stage}",
        "Data": _data,
        "Sequence length": lambda run: f"{run.record.dataset.seq_length:,}",
        "Iterations": lambda run: f"{run.last.iteration:,}",
        "Sequences": lambda run: f"{run.last.consumed_samples:,}",
        "Real tokens": lambda run: f"{run.last.real_tokens:,}",
        "Pause tokens": _pause_tokens,
        "Final training loss": lambda run: f"{final_loss(run):.4f}",
        "Tokens per second, median": lambda run: (
            f"{round(statistics.median(record.tokens_per_second for record in run.train)):,}"
        ),
    }
    cells = [
        elements.text_cells(name, *(fact_of([of(run) for run in group.runs]) for group in groups))
        for name, of in rows.items()
    ]
    if has_repetitions(groups):
        seeds = [", ".join(str(run.record.seed) for run in group.runs) for group in groups]
        cells.insert(1, elements.text_cells("Seeds", *seeds))
    return Table(
        name="pretraining",
        caption="Pretraining runs. The loss is over real targets, the mean of the last tenth of the logged steps."
        + (" Lists are in the order of the seeds." if has_repetitions(groups) else ""),
        columns=("", *(group.label for group in groups)),
        rows=tuple(cells),
    )


def layout(run: PretrainRun) -> str:
    """Return the parallel layout of a run, for example "TP 2 · PP 1 · DP 2"; a dash if its file does not tell."""
    parallel = run.record.config.get("parallel")
    names = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    tensor, pipeline = (parallel.get(name) if isinstance(parallel, dict) else None for name in names)
    if not (isinstance(tensor, int) and isinstance(pipeline, int) and tensor * pipeline > 0):
        return NOTHING
    return f"TP {tensor} · PP {pipeline} · DP {run.record.world_size // (tensor * pipeline)}"


def _data(run: PretrainRun) -> str:
    dataset = run.record.dataset
    if run.is_standard:
        return "no pauses"
    rate = f"rates drawn around {dataset.pause_rate:g}" if dataset.rates else f"rate {dataset.pause_rate:g}"
    if dataset.rates == "drawn+fixed":
        rate += " in a part of the data"
    return f"pauses: {dataset.strategy}, {rate}"


def _pause_tokens(run: PretrainRun) -> str:
    pauses, total = run.last.pause_tokens, run.last.pause_tokens + run.last.real_tokens
    return f"{pauses:,} ({pauses / total:.1%})" if pauses else "0"


def final_loss(run: PretrainRun) -> float:
    """Return the mean training loss over the last tenth of the logged steps, at least one."""
    tail = run.train[-max(1, len(run.train) // 10) :]
    return statistics.fmean(record.loss for record in tail)


def validation_table(runs: tuple[PretrainRun, ...]) -> Table:
    """Tabulate loss and perplexity of each model at its last validation on each held-out dataset."""
    groups = group_runs(runs)
    means = " Means over seeds." if has_repetitions(groups) else ""
    return Table(
        name="validation",
        caption=f"Loss on held-out text at the last validation, over real targets only, not over pauses.{means}",
        columns=("Held-out text", *(group.label for group in groups)),
        rows=tuple(
            (TableCell(text=dataset, note=text_kind(pauses)), *(_validation_cell(group, dataset) for group in groups))
            for dataset, pauses in validation_sets(runs).items()
        ),
    )


def _validation_cell(group: RunGroup, dataset: str) -> TableCell:
    losses = group.losses(dataset)
    if not losses:
        return TableCell(text=NOTHING)
    notes = [f"perplexity {perplexity(statistics.fmean(losses)):.4g}", scatter_note(losses, 4)]
    return TableCell(text=loss_text(losses), note="; ".join(filter(None, notes)))


def differences_table(runs: tuple[PretrainRun, ...]) -> Table:
    """Tabulate the difference of each model's held-out loss from that of the smallest model without pauses."""
    groups, sets = group_runs(runs), validation_sets(runs)
    standard = sorted(
        (group for group in groups if group.first.is_standard), key=lambda one: one.first.record.parameters
    )
    others = [group for group in groups if standard and group is not standard[0]]
    rows = [
        (TableCell(text=group.name), TableCell(text=dataset, note=text_kind(pauses)), *_difference(found))
        for dataset, pauses in sets.items()
        for group in others
        if (found := loss_difference(group.runs, standard[0].runs, dataset))
    ]
    own = [
        (TableCell(text=group.name), TableCell(text=names[0], note=f"minus that on {names[1]}"), *_difference(found))
        for group in others
        if (names := own_texts(group, standard[0])) and (found := loss_difference(group.runs, standard[0].runs, *names))
    ]
    return Table(
        name="loss-differences",
        caption=f"Difference of the loss at the last validation from {standard[0].name if standard else NOTHING}, in"
        " nats; below 0 is better. The 95 % interval holds for other text of this kind if both models read the same"
        " targets, and with several pretraining seeds for other seeds too. It is not corrected for several comparisons."
        + (OWN_TEXT_NOTE if own else ""),
        columns=("Model", "Held-out text", "Difference", "95 % interval", "Seeds"),
        words=("Held-out text",),
        rows=tuple(rows + own),
    )


def own_texts(group: RunGroup, baseline: RunGroup) -> tuple[str, str] | None:
    """Return the held-out datasets with the pauses of the training data of ``group`` and of ``baseline``.

    None if one is not known, or if both are the same.
    """
    own, other = own_text(group.first), own_text(baseline.first)
    return None if own is None or other is None or own == other else (own, other)


def _difference(found: LossDifference) -> tuple[TableCell, ...]:
    ends = NOTHING
    if found.uncertainty is not None:
        margin = found.uncertainty.margin
        ends = f"{_nats(found.value - margin)} to {_nats(found.value + margin)}"
    return elements.text_cells(_nats(found.value), ends, str(found.seeds))


def _nats(value: float) -> str:
    return f"{MINUS if value < 0 else '+'}{abs(value):.4f}"


def validation_sets(runs: tuple[PretrainRun, ...]) -> dict[str, str]:
    """Return the pause strategies of each held-out dataset by name; datasets without pauses come first.

    Datasets of one name can differ in their pauses from run to run: the strategies are then joined by "+".
    """
    found: dict[str, set[str]] = {}
    for record in (record for run in runs for record in run.validation):
        found.setdefault(record.dataset, set()).add(record.pauses)
    joined = {name: "+".join(sorted(kinds)) for name, kinds in found.items()}
    return dict(sorted(joined.items(), key=lambda item: (item[1] != "none", item[0])))


def text_kind(pauses: str) -> str:
    """Return a dataset's pause strategies in words."""
    kinds = pauses.split("+")
    if "none" in kinds and len(kinds) > 1:
        return "text with and without pauses"
    return "standard text" if pauses == "none" else "paused text"


def pretraining_sentence(runs: tuple[PretrainRun, ...]) -> str:
    """State the loss of each model on each held-out dataset, or without any the final training loss."""
    groups, sets, sentences = group_runs(runs), validation_sets(runs), []
    own = [own_text(group.first) or "" for group in groups]
    texts = {f"{text_kind(pauses)} ({dataset})": [dataset] * len(groups) for dataset, pauses in sets.items()}
    if len(sets) > 2 and all(own):  # the table has all of them
        texts = dict([next(iter(texts.items())), ("text with the pauses of its training text", own)])
    for text, datasets in texts.items():
        found = [
            f"{group.label} has loss {mean:.3f} (perplexity {perplexity(mean):.4g}{_over_seeds(losses)})"
            for group, dataset in zip(groups, datasets, strict=True)
            if (losses := group.losses(dataset))
            for mean in [statistics.fmean(losses)]
        ]
        sentences.append(f"On held-out {text}, {listed(found)}.")
    if not sentences:
        found = [
            f"{group.label} ends at {statistics.fmean(losses):.3f}{_over_seeds(losses)}"
            for group in groups
            for losses in [[final_loss(run) for run in group.runs]]
        ]
        sentences.append(f"Training loss on real targets: {listed(found)}.")
    return " ".join(sentences)


def _over_seeds(losses: Sequence[float]) -> str:
    return f", mean of {len(losses)} seeds" if len(losses) > 1 else ""


def training_figure(runs: tuple[PretrainRun, ...]) -> Figure:
    """Draw training loss over iterations."""
    curves = {
        group.label: mean_curve(
            [([float(one.iteration) for one in run.train], [one.loss for one in run.train]) for run in group.runs]
        )
        for group in group_runs(runs)
    }
    caption = f"Cross-entropy on real targets, in nats.{means_over_seeds(runs)}"
    return loss_figure(
        "pretraining", "iterations", "Training loss over iterations", caption, model_lines(curves), "iterations"
    )


def validation_figures(runs: tuple[PretrainRun, ...]) -> list[Figure]:
    """Draw validation loss over iterations, a chart for each held-out dataset."""
    figures = []
    for dataset, pauses in validation_sets(runs).items():
        curves = {
            group.label: mean_curve([_validations(run, dataset) for run in group.runs]) for group in group_runs(runs)
        }
        caption = f"Held-out dataset {dataset}; real targets only.{means_over_seeds(runs)}"
        title = f"Validation on {text_kind(pauses)}"
        figures.append(loss_figure("validation", dataset, title, caption, model_lines(curves), "iterations"))
    return figures


def _validations(run: PretrainRun, dataset: str) -> Curve:
    records = [record for record in run.validation if record.dataset == dataset]
    return [float(record.iteration) for record in records], [record.loss for record in records]
