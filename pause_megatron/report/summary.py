"""The plain summary on top of a report: what was compared and what the numbers say, in careful words."""

from __future__ import annotations

from collections.abc import Sequence

from pause_megatron.report.ablations import removals
from pause_megatron.report.cells import VARIANTS, Cell, Difference
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.labels import (
    counted,
    listed,
    model_label,
    rounded,
    run_label,
    series_label,
    setting_label,
    signed,
    verdict,
    with_error,
)
from pause_megatron.report.pretraining import final_loss, text_kind, validation_sets
from pause_megatron.report.records import Collected, PretrainRun

MOST_NAMED = 4
"""Models that a sentence names one by one."""


def summary(collected: Collected, tasks: Sequence[TaskResult]) -> list[str]:
    """Paragraphs: the verdict over all tasks, what was compared, one for each task, and one on pretraining."""
    paragraphs = [overall(tasks)] if tasks else []
    paragraphs.append(what_was_compared(collected, tasks))
    paragraphs += [task_sentence(task, tasks) for task in tasks]
    paragraphs += removal_sentence(tasks)
    if collected.runs:
        paragraphs.append(pretraining_sentence(collected.runs))
    return paragraphs


def what_was_compared(collected: Collected, tasks: Sequence[TaskResult]) -> str:
    """The models, their size and training, and the tasks."""
    sentences = []
    if tasks:
        models = {cell.setting.model for task in tasks for cell in task.cells}
        named = [model_label(model) for model in VARIANTS if model in models]
        named += [model_label(model) for model in sorted(models - set(VARIANTS))]
        names = listed([task.name for task in tasks])
        sentences.append(f"Compared on {counted(len(tasks), 'task')} ({names}): {listed(named)}.")
    for run in collected.runs:
        data = f"{rounded(run.last.real_tokens)} real tokens"
        if run.last.pause_tokens:
            data += f" and {rounded(run.last.pause_tokens)} pauses"
        sentences.append(
            f"{run_label(run, collected.runs)} is a model of {rounded(run.parameters)} parameters pretrained on {data}."
        )
    return " ".join(sentences)


def overall(tasks: Sequence[TaskResult]) -> str:
    """How many differences from StdPT_StdFT there are and which can be told from chance."""
    pairs = [(task, cell, difference) for task in tasks for cell, _, difference in task.compared]
    baseline = model_label(VARIANTS[0])
    if not pairs:
        return f"Without another variant beside {baseline} on the same task, there is no difference to report."
    clear = [pair for pair in pairs if pair[2].is_distinguishable]
    if not clear:
        only = "The one difference" if len(pairs) == 1 else f"None of the {len(pairs)} differences"
        negation = "cannot" if len(pairs) == 1 else "can"
        return f"{only} from {baseline} {negation} be told from chance (95 %)."
    named = [f"{setting_label(cell.setting, tasks)} on {task.name} ({_amount(difference, task)})"
             for task, cell, difference in clear]  # fmt: skip
    rest = len(pairs) - len(clear)
    ending = f"; the other {rest} {'is' if rest == 1 else 'are'} not distinguishable" if rest else ""
    return (
        f"Of {counted(len(pairs), 'difference')} from {baseline}, {len(clear)} can be told from chance (95 %):"
        f" {listed(named)}{ending}."
    )


def task_sentence(task: TaskResult, tasks: Sequence[TaskResult]) -> str:
    """One task: what the baseline reached, and how each other variant differs."""
    baseline = next((cell for cell in task.matched if cell.setting.model == VARIANTS[0]), None)
    direction = "" if task.higher_is_better else ", lower is better"
    if baseline is None:
        found = listed([f"{setting_label(cell.setting, tasks)} {_amount(cell, task)}" for cell in task.cells])
        return f"{task.name} ({task.metric}{direction}): {found}. There is no {model_label(VARIANTS[0])} beside them."
    sentence = (
        f"{task.name} ({task.metric}{direction}; {counted(baseline.num_samples, 'test item')},"
        f" {counted(baseline.seeds, 'finetuning seed')}): {model_label(VARIANTS[0])} reached {_amount(baseline, task)}."
    )
    for cell, _, difference in task.compared:
        sentence += f" {setting_label(cell.setting, tasks)}: {_amount(difference, task)}, {verdict(difference)}."
    return sentence


def removal_sentence(tasks: Sequence[TaskResult]) -> list[str]:
    """Which models finetuned with pauses collapse without them; nothing where none was measured so."""
    measured = [(task, removal) for task in tasks for removal in removals(task)]
    collapsed = [(task, removal) for task, removal in measured if removal.is_collapse]
    if not measured:
        return []
    if not collapsed:
        ending = "the one model finetuned with pauses does not collapse" if len(measured) == 1 else (
            f"none of the {len(measured)} models finetuned with pauses collapses")  # fmt: skip
        return [f"Given no pause at inference, {ending}."]
    named = [
        f"{series_label(removal.finetuned.setting, task)} on {task.name} (from {_amount(removal.finetuned, task)} to"
        f" {_amount(removal.without, task)})"
        for task, removal in collapsed[:MOST_NAMED]
    ]
    more = len(collapsed) - MOST_NAMED
    return [
        f"Given no pause at inference, {len(collapsed)} of {counted(len(measured), 'model')} finetuned with pauses"
        f" {'collapses' if len(collapsed) == 1 else 'collapse'}:"
        f" {listed([*named, f'{more} more'] if more > 0 else named)}."
    ]


def pretraining_sentence(runs: tuple[PretrainRun, ...]) -> str:
    """Loss on held-out text, or failing that the final training loss."""
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


def _amount(item: Cell | Difference, task: TaskResult) -> str:
    text = signed(item, task) if isinstance(item, Difference) else with_error(item, task)
    if not task.is_percentage:
        return text
    return f"{text} points" if isinstance(item, Difference) else f"{text}%"
