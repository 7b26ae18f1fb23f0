"""Results of an experiment's arms, and their table next to the published numbers."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.reproductions import Arm, Experiment
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError
from pause_megatron.intervals import mean_interval, wilson_interval
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_record
from pause_megatron.records.reproduction import ArmDifference, ArmRecord, Interval, ReproductionRecord
from pause_megatron.versions import versions


def result_file(experiment: Experiment, arm: Arm, folder: Path, seed: int) -> Path:
    """Return the path of an arm's result in the ``folder`` of a seed, as the grid names it."""
    pauses, weight = experiment.num_pauses(arm), arm.hint_weight
    hinted = f"-hint{weight:g}" if weight else ""
    name = f"initial-ft{pauses}{hinted}-inf{pauses}-seed{seed}.json"
    return folder / "grid" / "evaluate" / experiment.task / name


def collect_results(name: str, experiment: Experiment, output: Path, changes: Sequence[str] = ()) -> ReproductionRecord:
    """Read the results of all seeds and arms below ``output``; ``changes`` are those from the definition."""
    results = {
        arm.name: [
            read_record(result_file(experiment, arm, output / f"seed{seed}", seed), EvaluationRecord)
            for seed in experiment.seeds
        ]
        for arm in experiment.arms
    }
    everything = [record for records in results.values() for record in records]
    arms = tuple(_arm_record(experiment, arm, results[arm.name]) for arm in experiment.arms)
    values = {arm.name: arm.values for arm in arms}
    return ReproductionRecord(
        name=name,
        title=experiment.title,
        source=experiment.source,
        published=experiment.published,
        metric=everything[0].primary_metric,
        chance=experiment.chance,
        seeds=experiment.seeds,
        arms=arms,
        differences=tuple(_difference(first, second, values) for first, second in experiment.differences),
        deviations=(*experiment.deviations, *([f"Changed for this run: {', '.join(changes)}."] if changes else [])),
        parameters=max(record.architecture.parameters for record in everything),
        device=", ".join(sorted({record.device or "unknown" for record in everything})),
        settings=to_plain(experiment),
        versions=versions(),
        seconds=round(sum(record.seconds + _finetuning_seconds(record) for record in everything), 1),
    )


def _finetuning_seconds(record: EvaluationRecord) -> float:
    return record.finetuning.seconds if record.finetuning else 0.0


def _arm_record(experiment: Experiment, arm: Arm, results: Sequence[EvaluationRecord]) -> ArmRecord:
    first = results[0]
    finetuning = first.finetuning
    if finetuning is None or (finetuning.hint_weight or 0) != arm.hint_weight:
        raise UserError(f"{arm.name}: its result was made with other hints; remove the folder of the experiment")
    batch = FinetuneConfig.PRESETS.get(experiment.finetune.get("preset", ""), {}) | experiment.finetune
    # One token for each character of a target, and the end-of-document token.
    length = first.prompt_tokens + first.num_pauses_inf + len(first.samples[0].target) + 1
    values = tuple(result.primary.value for result in results)
    mean = statistics.fmean(values)
    return ArmRecord(
        name=arm.name,
        num_pauses=experiment.num_pauses(arm),
        hint_weight=arm.hint_weight,
        published=arm.published,
        values=values,
        num_samples=first.num_samples,
        item_interval=Interval(*wilson_interval(mean, sum(result.num_samples for result in results))),
        seed_interval=_over_seeds(values, least=0.0),
        steps=finetuning.steps,
        tokens=round(finetuning.steps * batch.get("batch_size", FinetuneConfig.batch_size) * length),
        seconds=round(statistics.fmean(map(_finetuning_seconds, results)), 1),
    )


def _over_seeds(values: Sequence[float], least: float) -> Interval | None:
    """Student's interval as far as it is possible: shares are between ``least`` and 1."""
    ends = mean_interval(values)
    return ends and Interval(max(ends[0], least), min(ends[1], 1.0))


def _difference(first: str, second: str, values: dict[str, tuple[float, ...]]) -> ArmDifference:
    differences = [one - other for one, other in zip(values[first], values[second], strict=True)]
    return ArmDifference(
        first=first, second=second, value=statistics.fmean(differences), interval=_over_seeds(differences, least=-1.0)
    )


def markdown(record: ReproductionRecord) -> str:
    """Return the table of a record, its differences, costs and deviations as Markdown."""
    seeds = ", ".join(map(str, record.seeds))
    lines = [
        f"# {record.title}",
        "",
        f"{record.source}: {record.published}",
        "",
        f"{record.metric} of models with {record.parameters:,} parameters, seeds {seeds}, on {record.device};"
        f" guessing gives {record.chance:.3f}.",
        "",
        "| arm | pauses | seeds | mean | 95 % over items | 95 % over seeds | published | steps | tokens | seconds |",
        "|---|---:|---|---:|---|---|---|---:|---:|---:|",
    ]
    for arm in record.arms:
        each = ", ".join(f"{value:.3f}" for value in arm.values)
        cells = [arm.name, str(arm.num_pauses), each, f"{statistics.fmean(arm.values):.3f}"]
        cells += [interval_text(arm.item_interval), interval_text(arm.seed_interval), arm.published]
        cells += [f"{arm.steps:,}", f"{arm.tokens / 1e6:.2f}M", f"{arm.seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if record.differences:
        lines += ["", "| difference | mean | 95 % over seeds |", "|---|---:|---|"]
        for one in record.differences:
            lines.append(f"| {one.first} - {one.second} | {one.value:+.3f} | {interval_text(one.interval, '+.3f')} |")
    lines += ["", "Tokens and seconds are those of one finetuning. All finetunings and evaluations together took"]
    lines += [f"{record.seconds:,.0f} s.", ""]
    lines += ["Deviations from the publication:", "", *(f"- {deviation}" for deviation in record.deviations), ""]
    return "\n".join(lines)


def interval_text(interval: Interval | None, form: str = ".3f") -> str:
    """Return an interval, for example "0.481 to 0.537"; a dash without one."""
    return "-" if interval is None else f"{interval.low:{form}} to {interval.high:{form}}"
