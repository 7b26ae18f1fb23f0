"""What a report's numbers do not show. Each caveat is derived from the data and stays away where it does not apply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pause_megatron.report.cells import VARIANTS, Uncertainty
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.labels import counted, listed, model_label, rounded, value
from pause_megatron.report.records import Collected, PretrainRun

PAPER_SMALLEST_PARAMETERS = 136_237_056
"""The smaller of the paper's two models (its Table 5)."""
PAPER_TOKENS = 200_000_000_000
"""Tokens each of the paper's models was pretrained on."""
PAPER_SEEDS = 5
"""Finetuning runs behind each of the paper's numbers."""
PAPER_TASKS = {
    "squad": "SQuAD",
    "gsm8k": "GSM8K",
    "hellaswag": "HellaSwag",
    "piqa": "PhysicalIQA",
    "coqa": "CoQA",
    "commonsense_qa": "CommonSenseQA",
    "lambada": "LAMBADA",
    "web_questions": "WebQuestions",
    "natural_questions": "Natural Questions",
}
"""The paper's nine benchmarks, by the names of tasks."""


def caveats(collected: Collected, tasks: Sequence[TaskResult]) -> list[str]:
    """The caveats that apply, the weightiest first."""
    return [
        *_scale(collected),
        *_pretraining_runs(collected, tasks),
        *_real_tokens(collected.runs),
        *_tasks(tasks),
        *(text for task in tasks for text in _one_task(task)),
        *_seeds(tasks),
        *(text for task in tasks for text in _uneven_seeds(task)),
        *_many_comparisons(tasks),
        *_missing(tasks),
    ]


def _scale(collected: Collected) -> Iterator[str]:
    published = "The published effect was measured on models of 130M and 1B parameters after 200B tokens"
    if not collected.runs:
        yield f"The size of the models is not known to this report, as it was given no pretraining run. {published}."
        return
    parameters = max(run.parameters for run in collected.runs)
    tokens = max(run.last.real_tokens + run.last.pause_tokens for run in collected.runs)
    if parameters >= PAPER_SMALLEST_PARAMETERS and tokens >= PAPER_TOKENS:
        return
    yield (
        f"{published}. The largest model here has {rounded(parameters)} parameters and the longest run"
        f" {rounded(tokens)} tokens, {rounded(PAPER_TOKENS / tokens)} times fewer: a difference seen here, or missing"
        " here, is no evidence about models of that size."
    )


def _pretraining_runs(collected: Collected, tasks: Sequence[TaskResult]) -> Iterator[str]:
    standard = [run for run in collected.runs if run.is_standard]
    paused = [run for run in collected.runs if not run.is_standard]
    models = {cell.setting.model for task in tasks for cell in task.cells}
    compares_pretraining = any(model.startswith("pausept") for model in models) or (standard and paused)
    if compares_pretraining:
        yield (
            "There is one pretraining run of each kind: what separates StdPT from PausePT may be the luck of one"
            " initialisation and data order, which no standard error here covers."
            if len(standard) <= 1 and len(paused) <= 1
            else "Losses of the pretraining runs stand without standard errors."
        )
    for fact, values in (
        ("parameters", {run.parameters for run in collected.runs}),
        ("sequences seen", {run.last.consumed_samples for run in collected.runs}),
    ):
        if standard and paused and len(values) > 1:
            numbers = listed([f"{number:,}" for number in sorted(values)])
            yield f"The pretraining runs differ in {fact} ({numbers}), not in pauses alone."


def _real_tokens(runs: tuple[PretrainRun, ...]) -> Iterator[str]:
    standard = max((run.last.real_tokens for run in runs if run.is_standard), default=0)
    paused = min((run.last.real_tokens for run in runs if not run.is_standard), default=0)
    if standard and paused and paused < standard:
        yield (
            f"PausePT saw {1 - paused / standard:.1%} fewer real tokens than StdPT ({rounded(paused)} against"
            f" {rounded(standard)}): pauses take places in a sequence. The paper compares in the same way."
        )


def _tasks(tasks: Sequence[TaskResult]) -> Iterator[str]:
    other = [task.name for task in tasks if not any(task.name.startswith(name) for name in PAPER_TASKS)]
    if other:
        yield (
            f"{listed(other)} {'is' if len(other) == 1 else 'are'} not among the paper's nine benchmarks"
            f" ({listed(list(PAPER_TASKS.values()))}); a result does not carry over to them."
        )
    if any(cell.setting.prefix_attention == "causal" for task in tasks for cell in task.cells):
        yield "Some results attend the prefix causally; in the paper it is attended bidirectionally downstream."


def _one_task(task: TaskResult) -> Iterator[str]:
    sizes = {evaluation.num_samples for cell in task.cells for evaluation in cell.evaluations}
    baseline = next((cell for cell in task.matched if cell.setting.model == VARIANTS[0]), None)
    if baseline is not None and baseline.uncertainty and baseline.stderr:
        seen = Uncertainty.of(baseline.uncertainty, baseline.uncertainty) or baseline.uncertainty
        points = " points" if task.is_percentage else ""
        yield (
            f"{task.name} was measured on {counted(min(sizes), 'test item')}: only a difference of about"
            f" {value(seen.margin, task)}{points} or more could have been told from none."
        )
    if len(sizes) > 1:
        numbers = listed([f"{size:,}" for size in sorted(sizes)])
        yield f"On {task.name} not every result rests on the same number of test items ({numbers})."
    if any(evaluation.primary.stderr == 0 for cell in task.cells for evaluation in cell.evaluations):
        yield f"On {task.name} some standard error is 0, as every test item scored alike; the true one is larger."
    if _all_guess(task):
        yield f"On {task.name} no variant can be told from guessing: there is no skill for pauses to improve."


def _all_guess(task: TaskResult) -> bool:
    if task.chance is None or not task.matched:
        return False
    errors = [(cell, cell.uncertainty) for cell in task.matched]
    return all(abs(cell.mean - task.chance) <= (error.margin if error else 0.0) for cell, error in errors)


def _seeds(tasks: Sequence[TaskResult]) -> Iterator[str]:
    seeds = [cell.seeds for task in tasks for cell in task.cells if cell.evaluations[0].finetuning is not None]
    if not seeds or min(seeds) >= PAPER_SEEDS:
        return
    if min(seeds) == 1:
        yield (
            "Some or all variants were finetuned once: their standard errors cover the choice of test items, not the"
            f" luck of finetuning, which the paper covers with {PAPER_SEEDS} runs."
        )
    else:
        yield (
            f"With {counted(min(seeds), 'finetuning seed')} the scatter of finetuning is itself known roughly;"
            f" the paper has {PAPER_SEEDS}."
        )


def _uneven_seeds(task: TaskResult) -> Iterator[str]:
    seeds = {cell.seeds for cell in task.cells if cell.setting.num_pauses_ft is not None}
    if len(seeds) > 1:
        numbers = listed([str(number) for number in sorted(seeds)])
        yield f"On {task.name} not every setting has results of the same number of finetuning seeds ({numbers})."


def _many_comparisons(tasks: Sequence[TaskResult]) -> Iterator[str]:
    number = sum(len(task.compared) for task in tasks)
    if number > 1:
        yield (
            f"There are {number} differences: were all variants equally good, about {0.05 * number:.1g} of them would"
            " still be expected to be called higher or lower."
        )


def _missing(tasks: Sequence[TaskResult]) -> Iterator[str]:
    for task in tasks:
        present = {cell.setting.model for cell in task.matched}
        missing = [model_label(variant) for variant in VARIANTS if variant not in present]
        if missing:
            yield f"On {task.name} {listed(missing)} {'was' if len(missing) == 1 else 'were'} not measured."
