"""Results of an experiment on text, and their table next to the published numbers.

All arms read the same real targets, so differences are paired twice: by blocks of the held-out text, and by seeds.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.serialize import to_plain
from pause_megatron.config.text_experiments import TextArm, TextExperiment
from pause_megatron.errors import UserError
from pause_megatron.experiments.text_reproduction import plain_folder, run_folder
from pause_megatron.intervals import combined_error, error_over_blocks, standard_error, student_margin
from pause_megatron.records.files import read_record, read_record_lines
from pause_megatron.records.pretraining import (
    METRICS_FILE,
    METRICS_KINDS,
    RunRecord,
    TrainRecord,
    ValidationRecord,
    perplexity,
)
from pause_megatron.records.reproduction import Interval, TextArmDifference, TextArmRecord, TextReproductionRecord
from pause_megatron.versions import versions


@dataclass(frozen=True, kw_only=True)
class _Run:
    record: RunRecord
    last: TrainRecord
    validation: ValidationRecord
    """After the last step."""
    seconds: float
    """Of its steps."""


def collect_text_results(
    name: str, experiment: TextExperiment, output: Path, changes: Sequence[str] = ()
) -> TextReproductionRecord:
    """Read the runs of all seeds and arms below ``output``; ``changes`` are those from the definition.

    Raises :class:`UserError` if a run is missing or not complete, or if the arms read other real tokens.
    """
    plain = _read_run(plain_folder(output))
    runs = {
        arm.name: [_read_run(run_folder(output, arm, seed)) for seed in experiment.seeds] for arm in experiment.arms
    }
    everything = [plain, *(run for of_arm in runs.values() for run in of_arm)]
    _require_same_text(runs, output)
    return TextReproductionRecord(
        name=name,
        title=experiment.title,
        source=experiment.source,
        published=experiment.published,
        seeds=experiment.seeds,
        plain_loss=plain.validation.loss,
        plain_tokens=plain.last.real_tokens,
        plain_seconds=round(plain.seconds, 1),
        held_out_targets=everything[-1].validation.real_tokens,
        held_out_blocks=len(everything[-1].validation.block_targets),
        arms=tuple(_arm_record(arm, runs[arm.name]) for arm in experiment.arms),
        differences=tuple(_difference(first, second, runs) for first, second in experiment.differences),
        meaning=experiment.meaning,
        deviations=(*experiment.deviations, *([f"Changed for this run: {', '.join(changes)}."] if changes else [])),
        parameters=max(run.record.parameters for run in everything),
        device=", ".join(sorted({kind for run in everything if run.record.devices
                                 for kind in run.record.devices.devices})) or "unknown",
        settings=to_plain(experiment),
        versions=versions(),
        seconds=round(sum(run.seconds for run in everything), 1),
    )  # fmt: skip


def _read_run(folder: Path) -> _Run:
    record = read_record(folder / RunRecord.FILE, RunRecord)
    lines = read_record_lines(folder / METRICS_FILE, METRICS_KINDS)
    # A resumed run repeats steps: the last record of a step counts.
    steps = {line.iteration: line for line in lines if isinstance(line, TrainRecord)}
    validations = {line.iteration: line for line in lines if isinstance(line, ValidationRecord)}
    if not steps or max(steps) not in validations:
        raise UserError(f"{folder}: has no validation after its last step; remove the folder, and run the same command")
    return _Run(
        record=record,
        last=steps[max(steps)],
        validation=validations[max(steps)],
        seconds=math.fsum(step.steps * step.seconds_per_step for step in steps.values()),
    )


def _require_same_text(runs: dict[str, list[_Run]], output: Path) -> None:
    found = {
        (run.last.real_tokens, run.validation.real_tokens, run.validation.block_targets)
        for of_arm in runs.values()
        for run in of_arm
    }
    if len(found) > 1:
        raise UserError(f"{output}: arms read other real tokens, so they cannot be compared; choose another --output")


def _arm_record(arm: TextArm, runs: Sequence[_Run]) -> TextArmRecord:
    losses, last = tuple(run.validation.loss for run in runs), runs[0].last
    loss = statistics.fmean(losses)
    return TextArmRecord(
        name=arm.name,
        num_pauses=arm.num_pauses,
        pause_positions=arm.pause_positions,
        distinct=arm.distinct,
        published=arm.published,
        losses=losses,
        loss=loss,
        perplexity=perplexity(loss),
        seed_error=standard_error(losses),
        real_tokens=last.real_tokens,
        pause_tokens=last.pause_tokens,
        flops=last.consumed_samples * (runs[0].record.flops_per_sequence or 0),
        seconds=round(statistics.fmean(run.seconds for run in runs), 1),
    )


def _difference(first: str, second: str, runs: dict[str, list[_Run]]) -> TextArmDifference:
    pairs = [(one.validation, other.validation) for one, other in zip(runs[first], runs[second], strict=True)]
    values = tuple(one.loss - other.loss for one, other in pairs)
    targets = pairs[0][0].block_targets
    # The blocks are the same for each seed, so seeds are averaged first.
    blocks = [
        statistics.fmean(one.block_losses[index] - other.block_losses[index] for one, other in pairs)
        for index in range(len(targets))
    ]
    text_error, seed_error = error_over_blocks(blocks, targets), standard_error(values)
    known = [] if text_error is None else [(text_error, len(targets) - 1.0)]
    known += [] if seed_error is None else [(seed_error, len(values) - 1.0)]
    value = statistics.fmean(values)
    margin = student_margin(*combined_error(known)) if known else None
    return TextArmDifference(
        first=first,
        second=second,
        values=values,
        value=value,
        text_error=text_error,
        seed_error=seed_error,
        interval=None if margin is None else Interval(value - margin, value + margin),
    )


def text_markdown(record: TextReproductionRecord) -> str:
    """Return the table of a record, its differences, costs, meaning and deviations as Markdown."""
    lines = [
        f"# {record.title}",
        "",
        f"{record.source}: {record.published}",
        "",
        f"A model with {record.parameters:,} parameters was trained on {record.plain_tokens:,} tokens without pauses,"
        f" to a held-out loss of {record.plain_loss:.4f} nats. Each arm continued from it on"
        f" {record.arms[0].real_tokens:,} real tokens, seeds {', '.join(map(str, record.seeds))}, on {record.device}."
        f" Losses are in nats per real token, over the same {record.held_out_targets:,} held-out targets.",
        "",
        *_arm_lines(record),
    ]
    if record.differences:
        lines += ["", *_difference_lines(record)]
    lines += [
        "",
        "A negative difference means that the first arm is better. The error over text is paired by"
        f" {record.held_out_blocks} blocks of the held-out text, the error over seeds by seed. The interval has both."
        " Tokens, FLOPs and seconds are those of one continuation. The steps of all trainings took"
        f" {record.seconds:,.0f} s.",
        "",
        record.meaning,
        "",
        "Deviations from the publications:",
        "",
        *(f"- {deviation}" for deviation in record.deviations),
        "",
    ]
    return "\n".join(lines)


def _arm_lines(record: TextReproductionRecord) -> Iterator[str]:
    yield _row("arm", "loss of each seed", "mean", "error over seeds", "perplexity", "published", "all tokens", "FLOPs",
               "seconds")  # fmt: skip
    yield "|---|---|---:|---:|---:|---|---:|---:|---:|"
    for arm in record.arms:
        each = ", ".join(f"{loss:.4f}" for loss in arm.losses)
        cost = f"{(arm.real_tokens + arm.pause_tokens) / 1e6:.2f}M", f"{arm.flops:.2e}", f"{arm.seconds:.0f}"
        error = _error(arm.seed_error)
        yield _row(arm.name, each, f"{arm.loss:.4f}", error, f"{arm.perplexity:.2f}", arm.published, *cost)


def _difference_lines(record: TextReproductionRecord) -> Iterator[str]:
    yield _row("difference", "each seed", "mean", "error over text", "error over seeds", "95 %", "perplexity")
    yield "|---|---|---:|---:|---:|---|---:|"
    for one in record.differences:
        each = ", ".join(f"{value:+.4f}" for value in one.values)
        ends = "-" if one.interval is None else f"{one.interval.low:+.4f} to {one.interval.high:+.4f}"
        change = f"{100 * math.expm1(one.value):+.1f} %"
        errors = _error(one.text_error), _error(one.seed_error)
        yield _row(f"{one.first} - {one.second}", each, f"{one.value:+.4f}", *errors, ends, change)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.4f}"
