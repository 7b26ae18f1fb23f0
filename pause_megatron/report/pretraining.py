"""The tables of pretraining runs: what they were, how they ended, and their loss on held-out text."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from pause_megatron.report.labels import NOTHING, run_label, whole
from pause_megatron.report.records import PretrainRun
from pause_megatron.report.tables import Entry, Table, entries


def pretraining_table(runs: tuple[PretrainRun, ...]) -> Table:
    """What each pretraining run was and how it ended: facts as rows, a column for each run."""
    facts = {
        "Parameters": [whole(run.parameters) for run in runs],
        "Layout": [layout(run) for run in runs],
        "Processes": [whole(run.world_size) for run in runs],
        "ZeRO": [zero(run) for run in runs],
        "Data": [_data(run) for run in runs],
        "Sequence length": [whole(run.dataset.get("seq_length")) for run in runs],
        "Iterations": [whole(run.last.iteration) for run in runs],
        "Sequences": [whole(run.last.consumed_samples) for run in runs],
        "Real tokens": [whole(run.last.real_tokens) for run in runs],
        "Pause tokens": [_pause_tokens(run) for run in runs],
        "Final training loss": [f"{final_loss(run):.4f}" for run in runs],
        "Tokens per second, median": [
            whole(round(statistics.median(record.tokens_per_second for record in run.train))) for run in runs
        ],
    }
    return Table(
        name="pretraining",
        caption="Pretraining runs. The loss is over real targets, the mean of the last tenth of the logged steps.",
        columns=("", *(run_label(run, runs) for run in runs)),
        rows=tuple(entries(fact, *texts) for fact, texts in facts.items()),
    )


def validation_table(runs: tuple[PretrainRun, ...]) -> Table | None:
    """Loss and perplexity of each model on each held-out dataset at its last validation; None where none was made."""
    datasets = validation_sets(runs)
    if not datasets:
        return None
    rows = []
    for dataset, pauses in datasets.items():
        row = [Entry(text=dataset, note=text_kind(pauses))]
        for run in runs:
            record = run.last_validation(dataset)
            row.append(
                Entry(text=NOTHING)
                if record is None
                else Entry(text=f"{record.loss:.4f}", note=f"perplexity {record.perplexity:.4g}")
            )
        rows.append(tuple(row))
    return Table(
        name="validation",
        caption="Loss on held-out text at the last validation, over real targets only (targets that are pauses are left"
        " out).",
        columns=("Held-out text", *(run_label(run, runs) for run in runs)),
        rows=tuple(rows),
    )


def validation_sets(runs: tuple[PretrainRun, ...]) -> dict[str, str]:
    """Held-out datasets by name, with their pause strategy; standard ones first."""
    found = {record.dataset: record.pauses for run in runs for record in run.validation}
    return dict(sorted(found.items(), key=lambda item: (item[1] != "none", item[0])))


def text_kind(pauses: str) -> str:
    """A dataset's pause strategy in words."""
    return "standard text" if pauses == "none" else "paused text"


def final_loss(run: PretrainRun) -> float:
    """Mean loss over the last tenth of the logged steps, at least one."""
    tail = run.train[-max(1, len(run.train) // 10) :]
    return statistics.fmean(record.loss for record in tail)


def layout(run: PretrainRun) -> str:
    """How the model was split over its processes, as in "TP 2 · PP 1 · DP 2"."""
    tensor = find_setting(run.config, "tensor_model_parallel_size") or 1
    pipeline = find_setting(run.config, "pipeline_model_parallel_size") or 1
    return f"TP {tensor} · PP {pipeline} · DP {run.world_size // (tensor * pipeline)}"


def zero(run: PretrainRun) -> str:
    """The ZeRO stage, or failing that the name of the DeepSpeed file that sets it."""
    if run.zero_stage is not None:
        return f"stage {run.zero_stage}"
    file = find_setting(run.config, "deepspeed")
    return Path(file).name if file else NOTHING


def find_setting(config: dict[str, Any], name: str) -> Any:
    """The setting called ``name``, in whatever section it stands (names of settings are unique); None if absent."""
    if name in config:
        return config[name]
    sections = (find_setting(section, name) for section in config.values() if isinstance(section, dict))
    return next((found for found in sections if found is not None), None)


def _data(run: PretrainRun) -> str:
    strategy = run.dataset.get("strategy", "none")
    return "no pauses" if strategy == "none" else f"pauses: {strategy}, rate {run.dataset.get('pause_rate', NOTHING)}"


def _pause_tokens(run: PretrainRun) -> str:
    pauses, total = run.last.pause_tokens, run.last.pause_tokens + run.last.real_tokens
    return f"{pauses:,} ({pauses / total:.1%})" if pauses else "0"
