"""Pretraining: the runs, their losses on training and held-out text, and the losses at equal cost."""

import statistics

from pause_megatron.report import elements
from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.elements import Figure, Section, Table, TableCell
from pause_megatron.report.labels import MINUS, NOTHING, listed, run_label
from pause_megatron.report.paired_losses import by_model, loss_difference
from pause_megatron.report.sections.loss_curves import loss_figure, thinned
from pause_megatron.report.sections.pretraining_cost import equal_cost_figures, equal_cost_table


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
    """Tabulate configuration and outcome of each run: facts as rows, runs as columns."""
    facts = {
        "Parameters": [f"{run.record.parameters:,}" for run in runs],
        "Layout": [layout(run) for run in runs],
        "Processes": [f"{run.record.world_size:,}" for run in runs],
        "ZeRO": [f"stage {run.record.zero_stage}" for run in runs],
        "Data": [_data(run) for run in runs],
        "Sequence length": [f"{run.record.dataset.seq_length:,}" for run in runs],
        "Iterations": [f"{run.last.iteration:,}" for run in runs],
        "Sequences": [f"{run.last.consumed_samples:,}" for run in runs],
        "Real tokens": [f"{run.last.real_tokens:,}" for run in runs],
        "Pause tokens": [_pause_tokens(run) for run in runs],
        "Final training loss": [f"{final_loss(run):.4f}" for run in runs],
        "Tokens per second, median": [
            f"{round(statistics.median(record.tokens_per_second for record in run.train)):,}" for run in runs
        ],
    }
    return Table(
        name="pretraining",
        caption="Pretraining runs. The loss is over real targets, the mean of the last tenth of the logged steps.",
        columns=("", *(run_label(run, runs) for run in runs)),
        rows=tuple(elements.text_cells(fact, *texts) for fact, texts in facts.items()),
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
    return "no pauses" if run.is_standard else f"pauses: {dataset.strategy}, rate {dataset.pause_rate}"


def _pause_tokens(run: PretrainRun) -> str:
    pauses, total = run.last.pause_tokens, run.last.pause_tokens + run.last.real_tokens
    return f"{pauses:,} ({pauses / total:.1%})" if pauses else "0"


def final_loss(run: PretrainRun) -> float:
    """Return the mean training loss over the last tenth of the logged steps, at least one."""
    tail = run.train[-max(1, len(run.train) // 10) :]
    return statistics.fmean(record.loss for record in tail)


def validation_table(runs: tuple[PretrainRun, ...]) -> Table:
    """Tabulate loss and perplexity of each run at its last validation on each held-out dataset."""
    return Table(
        name="validation",
        caption="Loss on held-out text at the last validation, over real targets only, not over pauses.",
        columns=("Held-out text", *(run_label(run, runs) for run in runs)),
        rows=tuple(
            (TableCell(text=dataset, note=text_kind(pauses)), *(_validation_cell(run, dataset) for run in runs))
            for dataset, pauses in validation_sets(runs).items()
        ),
    )


def _validation_cell(run: PretrainRun, dataset: str) -> TableCell:
    record = run.last_validation(dataset)
    if record is None:
        return TableCell(text=NOTHING)
    return TableCell(text=f"{record.loss:.4f}", note=f"perplexity {record.perplexity:.4g}")


def differences_table(runs: tuple[PretrainRun, ...]) -> Table:
    """Tabulate the difference of each model's held-out loss from that of the smallest model without pauses."""
    rows, models = [], by_model(runs)
    standard = sorted((run for run in runs if run.is_standard), key=lambda run: run.record.parameters)
    baseline = standard[0].record.model if standard else None
    for dataset, pauses in validation_sets(runs).items():
        for model, own in models.items():
            found = None if baseline in (None, model) else loss_difference(own, models[baseline], dataset)
            if found is not None:
                margin = None if found.uncertainty is None else found.uncertainty.margin
                ends = (
                    NOTHING if margin is None else " to ".join(map(_nats, (found.value - margin, found.value + margin)))
                )
                cells = elements.text_cells(dataset, _nats(found.value), ends, str(found.seeds))
                rows.append((TableCell(text=model), TableCell(text=dataset, note=text_kind(pauses)), *cells[1:]))
    return Table(
        name="loss-differences",
        caption=f"Difference of the loss at the last validation from {baseline}, in nats; below 0 is better. The 95 %"
        " interval holds for other text of this kind, as both models read the same targets, and with several"
        " pretraining seeds for other seeds too. It is not corrected for several comparisons.",
        columns=("Model", "Held-out text", "Difference", "95 % interval", "Seeds"),
        words=("Held-out text",),
        rows=tuple(rows),
    )


def _nats(value: float) -> str:
    return f"{MINUS if value < 0 else '+'}{abs(value):.4f}"


def validation_sets(runs: tuple[PretrainRun, ...]) -> dict[str, str]:
    """Return the pause strategy of each held-out dataset by name; datasets without pauses come first."""
    found = {record.dataset: record.pauses for run in runs for record in run.validation}
    return dict(sorted(found.items(), key=lambda item: (item[1] != "none", item[0])))


def text_kind(pauses: str) -> str:
    """Return a dataset's pause strategy in words."""
    return "standard text" if pauses == "none" else "paused text"


def pretraining_sentence(runs: tuple[PretrainRun, ...]) -> str:
    """State the loss of each run on each held-out dataset, or without any the final training loss."""
    sentences = []
    for dataset, pauses in validation_sets(runs).items():
        records = [(run_label(run, runs), run.last_validation(dataset)) for run in runs]
        found = [
            f"{label} has loss {record.loss:.3f} (perplexity {record.perplexity:.4g})"
            for label, record in records
            if record is not None
        ]
        sentences.append(f"On held-out {text_kind(pauses)} ({dataset}), {listed(found)}.")
    if not sentences:
        found = [f"{run_label(run, runs)} ends at {final_loss(run):.3f}" for run in runs]
        sentences.append(f"Training loss on real targets: {listed(found)}.")
    return " ".join(sentences)


def training_figure(runs: tuple[PretrainRun, ...]) -> Figure:
    """Draw training loss over iterations."""
    labels, lines = [run_label(run, runs) for run in runs], []
    for run, label, color in zip(runs, labels, elements.pretrained_colors(labels), strict=True):
        x, y = [float(record.iteration) for record in run.train], [record.loss for record in run.train]
        lines.append(thinned(label, color, x, y))
    caption = "Cross-entropy on real targets, in nats."
    return loss_figure("pretraining", "iterations", "Training loss over iterations", caption, lines, "iterations")


def validation_figures(runs: tuple[PretrainRun, ...]) -> list[Figure]:
    """Draw validation loss over iterations, a chart for each held-out dataset."""
    labels, figures = [run_label(run, runs) for run in runs], []
    for dataset, pauses in validation_sets(runs).items():
        lines = []
        for run, label, color in zip(runs, labels, elements.pretrained_colors(labels), strict=True):
            records = [record for record in run.validation if record.dataset == dataset]
            if records:
                x, y = [float(record.iteration) for record in records], [record.loss for record in records]
                lines.append(thinned(label, color, x, y))
        caption = f"Held-out dataset {dataset}; real targets only."
        title = f"Validation on {text_kind(pauses)}"
        figures.append(loss_figure("validation", dataset, title, caption, lines, "iterations"))
    return figures
