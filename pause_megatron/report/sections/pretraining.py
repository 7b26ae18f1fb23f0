"""Training: the pretraining runs with their losses on training and held-out text, and the losses of finetuning."""

import statistics
from collections.abc import Sequence

from pause_megatron.records.finetuning import FinetuneStepRecord
from pause_megatron.report import elements
from pause_megatron.report.collect import PretrainRun
from pause_megatron.report.drawing import Line
from pause_megatron.report.elements import Figure, Section, Table, TableCell
from pause_megatron.report.labels import NOTHING, listed, run_label, setting_label
from pause_megatron.report.measurements import Measurement, TaskResult


def pretraining_section(runs: tuple[PretrainRun, ...]) -> Section:
    """Build the section on pretraining; it is empty without runs."""
    return Section(
        anchor="pretraining",
        heading="Pretraining",
        tables=(validation_table(runs), pretraining_table(runs)) if runs else (),
        figures=(*training_figures(runs), *validation_figures(runs)) if runs else (),
    )


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


def training_figures(runs: tuple[PretrainRun, ...]) -> list[Figure]:
    """Draw training loss over iterations, and over real tokens: a run with pauses sees fewer of them."""
    labels, figures = [run_label(run, runs) for run in runs], []
    for field, words in (("iteration", "iterations"), ("real_tokens", "real tokens seen")):
        lines = []
        for run, label, color in zip(runs, labels, elements.pretrained_colors(labels), strict=True):
            x, y = [float(getattr(record, field)) for record in run.train], [record.loss for record in run.train]
            lines.append(thinned(label, color, x, y))
        caption = "Cross-entropy on real targets, in nats."
        figures.append(loss_figure("pretraining", words, f"Training loss over {words}", caption, lines, words))
    return figures


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
