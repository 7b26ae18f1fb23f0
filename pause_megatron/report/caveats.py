"""Caveats: limits of a report's evidence. Each is derived from the data and appears only if it applies."""

from collections.abc import Iterator, Sequence

from pause_megatron.records.variants import VARIANTS
from pause_megatron.report.collect import Collected, PretrainRun
from pause_megatron.report.guessing import guessing
from pause_megatron.report.labels import counted, listed, model_label, rounded
from pause_megatron.report.measurements import TaskResult
from pause_megatron.report.run_groups import group_runs
from pause_megatron.report.sections.published import PARAMETERS, model_size
from pause_megatron.report.verdicts import Verdicts

PAPER_TOKENS = 200_000_000_000  # tokens that each of the paper's models was pretrained on
PAPER_SEEDS = 5  # finetuning runs of each of the paper's numbers
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
"""The paper's nine benchmarks by the beginning of the task's name; for example, "squad" covers "squad_v2"."""


def caveats(collected: Collected, verdicts: Verdicts) -> list[str]:
    """Return the caveats that apply, the most important first."""
    tasks = [verdict.task for verdict in verdicts.tasks]
    return [
        *_scale(collected),
        *_pretraining_runs(collected, tasks),
        *_real_tokens(collected.runs),
        *_tasks(tasks),
        *_pauses_of_pretraining(collected),
        *(text for task in tasks for text in _one_task(task)),
        *_seeds(tasks),
        *(text for task in tasks for text in _uneven_seeds(task)),
        *_many_comparisons(verdicts),
        *_missing(tasks),
    ]


def _scale(collected: Collected) -> Iterator[str]:
    published = "The published effect was measured on models of 130M and 1B parameters after 200B tokens"
    records = [result.record for result in collected.evaluations]
    parameters = max([*(run.record.parameters for run in collected.runs),
                      *(record.architecture.parameters for record in records)], default=0)  # fmt: skip
    trained = [record.pretraining for record in records if record.pretraining is not None]
    tokens = max([*(run.last.real_tokens + run.last.pause_tokens for run in collected.runs),
                  *(one.real_tokens + one.pause_tokens for one in trained)], default=0)  # fmt: skip
    is_published_shape = any(model_size(record.architecture) for record in records)
    is_small = parameters < min(PARAMETERS.values()) and not is_published_shape
    if not tokens:
        yield (
            f"{published}. The largest model here has {rounded(parameters)} parameters; this report does not know how"
            " many tokens it was pretrained on."
        )
    elif is_small or tokens < PAPER_TOKENS:
        fewer = f", {rounded(PAPER_TOKENS / tokens)} times fewer" if tokens < PAPER_TOKENS else ""
        yield (
            f"{published}. The largest model here has {rounded(parameters)} parameters and the longest pretraining"
            f" {rounded(tokens)} tokens{fewer}. Neither a difference nor its absence here is evidence about models of"
            " the published size and training."
        )


def _pretraining_runs(collected: Collected, tasks: Sequence[TaskResult]) -> Iterator[str]:
    standard = [run for run in collected.runs if run.is_standard]
    paused = [run for run in collected.runs if not run.is_standard]
    models = {measurement.setting.model for task in tasks for measurement in task.measurements}
    if any(model.startswith("pausept") for model in models) or (standard and paused):
        seeds = [measurement.pretraining_seeds for task in tasks for measurement in task.measurements]
        seeds += [len(group.runs) for group in group_runs(collected.runs)]
        if min(seeds) == 1:
            which = "The" if max(seeds) == 1 else "Some"
            yield (
                f"{which} pretrained models have one pretraining run each: a difference between StdPT and PausePT may"
                " come from one initialisation and data order, which no interval here covers."
            )
    for fact, values in (
        ("parameters", {run.record.parameters for run in collected.runs}),
        ("sequences seen", {run.last.consumed_samples for run in collected.runs}),
    ):
        if standard and paused and len(values) > 1:
            numbers = listed([f"{number:,}" for number in sorted(values)])
            yield f"The pretraining runs differ in {fact} ({numbers}), not only in pauses."


def _real_tokens(runs: tuple[PretrainRun, ...]) -> Iterator[str]:
    standard = max((run.last.real_tokens for run in runs if run.is_standard), default=0)
    paused = min((run.last.real_tokens for run in runs if not run.is_standard), default=0)
    if standard and paused and paused < standard:
        yield (
            f"PausePT saw {1 - paused / standard:.1%} fewer real tokens than StdPT ({rounded(paused)} instead of"
            f" {rounded(standard)}), because pauses take up positions. The paper compares in the same way."
        )


def _tasks(tasks: Sequence[TaskResult]) -> Iterator[str]:
    other = [task.name for task in tasks if not any(task.name.startswith(name) for name in PAPER_TASKS)]
    if other:
        yield (
            f"{listed(other)} {'is' if len(other) == 1 else 'are'} not among the paper's nine benchmarks"
            f" ({listed(list(PAPER_TASKS.values()))}), so the result does not carry over to them."
        )
    if any(measurement.setting.prefix_attention == "causal" for task in tasks for measurement in task.measurements):
        yield "Some results use causal prefix attention; the paper uses bidirectional prefix attention downstream."
    if any(measurement.setting.hint_weight for task in tasks for measurement in task.measurements):
        yield (
            "Some models were finetuned with labels at their pauses (hints), so their pauses carry intermediate results"
            " that the data gave them; the paper has no loss at pauses."
        )


def _pauses_of_pretraining(collected: Collected) -> Iterator[str]:
    results = [result.record for result in collected.evaluations]
    drawn = {record.pretraining.model for record in results if record.pretraining and record.pretraining.rates}
    drawn |= {run.record.model for run in collected.runs if run.record.dataset.rates}
    if drawn:
        yield (
            f"{listed(sorted(drawn))} {'was' if len(drawn) == 1 else 'were'} pretrained with a rate of pauses drawn for"
            " each sequence or document; the paper has one rate."
        )
    repeating = {one.model for record in results if (one := record.pretraining) and one.pause_inputs == "repeat"}
    if repeating:
        yield (
            f"{listed(sorted(repeating))} {'was' if len(repeating) == 1 else 'were'} pretrained with repeated tokens in"
            " place of pauses, so its differences are those of more positions, not of <pause>."
        )


def _one_task(task: TaskResult) -> Iterator[str]:
    results = [result for measurement in task.measurements for result in measurement.results]
    records = [result.record for result in results]
    sizes = {record.num_samples for record in records}
    if len(sizes) > 1:
        numbers = listed([f"{size:,}" for size in sorted(sizes)])
        yield f"On {task.name}, results have different numbers of test items ({numbers})."
    scored = [one for one in results if all(sample.correct is not None for sample in one.record.samples)]
    if unlike := [one.source for one in scored if one.lists_all_items and not one.is_mean_of_items]:
        yield (
            f"On {task.name}, the {task.metric} of {counted(len(unlike), 'result')} is not the mean of its samples, so"
            f" its differences are not paired by test item. A file may have been changed, such as {unlike[0]}."
        )
    scores = [guessing(measurement, task) for measurement in task.matched]
    if scores and all(one.position != "above" for one in scores):
        bar = (
            "guessing" if task.chance_level else "the best constant answer" if any(one.level for one in scores) else "0"
        )
        yield f"On {task.name}, no model is shown to score above {bar}, so there is no skill to compare."
    if scores and task.chance_level and any(one.position == "below" for one in scores):
        yield f"On {task.name}, some scores are below guessing: those models have not learned the form of the answer."


def _seeds(tasks: Sequence[TaskResult]) -> Iterator[str]:
    seeds = [one.seeds for task in tasks for one in task.measurements if one.results[0].record.finetuning]
    if not seeds or min(seeds) >= PAPER_SEEDS:
        return
    if min(seeds) == 1:
        yield (
            "Some or all variants were finetuned once: the intervals of their scores cover the choice of test items,"
            f" not the randomness of finetuning, which the paper covers with {PAPER_SEEDS} runs."
        )
    else:
        yield (
            f"With {counted(min(seeds), 'finetuning seed')}, the scatter of finetuning is only roughly known; the paper"
            f" has {PAPER_SEEDS}."
        )


def _uneven_seeds(task: TaskResult) -> Iterator[str]:
    seeds = {one.seeds for one in task.measurements if one.setting.num_pauses_ft is not None}
    if len(seeds) > 1:
        numbers = listed([str(number) for number in sorted(seeds)])
        yield f"On {task.name}, settings have different numbers of finetuning seeds ({numbers})."


def _many_comparisons(verdicts: Verdicts) -> Iterator[str]:
    if verdicts.tested > 1:
        yield (
            f"Verdicts are corrected for {verdicts.tested} comparisons (Holm): if all variants were equally good, at"
            " most 5 % of such reports would claim any difference. Small real differences are missed more often for it."
        )


def _missing(tasks: Sequence[TaskResult]) -> Iterator[str]:
    for task in tasks:
        present = {measurement.setting.model for measurement in task.matched}
        missing = [model_label(variant) for variant in VARIANTS if variant not in present]
        if missing:
            yield f"On {task.name}, {listed(missing)} {'was' if len(missing) == 1 else 'were'} not measured."
