"""Published small experiments that ``pause-megatron reproduce`` repeated, next to their published results.

No verdict of the report uses them: they are other tasks, trained in another way.
"""

import statistics
from collections.abc import Sequence

from pause_megatron.records.reproduction import ArmRecord, ReproductionRecord, TextArmRecord, TextReproductionRecord
from pause_megatron.report.elements import Section, Table, TableCell, slug, text_cells
from pause_megatron.report.labels import MINUS, counted, rounded


def reproductions_section(records: Sequence[ReproductionRecord | TextReproductionRecord]) -> Section:
    """Build the section; it is empty without repeated experiments."""
    return Section(
        anchor="reproductions",
        heading="Published experiments, repeated",
        tables=tuple(table for record in records for table in _tables(record)),
    )


def _tables(record: ReproductionRecord | TextReproductionRecord) -> tuple[Table, ...]:
    return _text_tables(record) if isinstance(record, TextReproductionRecord) else _task_tables(record)


def _deviations(deviations: Sequence[str]) -> str:
    return f" What differs here: {' '.join(deviations)}" if deviations else ""


def _task_tables(record: ReproductionRecord) -> tuple[Table, ...]:
    deviations = _deviations(record.deviations)
    arms = Table(
        name=f"reproduction-{slug(record.name)}",
        caption=f"{record.title}: {record.metric} in % of models with {record.parameters:,} parameters"
        f" ({counted(len(record.seeds), 'seed')}), with the 95 % interval over all test items; guessing gives"
        f" {100 * record.chance:.0f} %. {record.source}: {record.published}{deviations} The verdicts of this report do"
        " not use this experiment.",
        columns=("Arm", "Pauses", "Here", "Each seed", "Published", "Tokens", "Seconds"),
        words=("Published",),
        rows=tuple(_arm_row(arm) for arm in record.arms),
    )
    differences = Table(
        name=f"reproduction-{slug(record.name)}-differences",
        caption="Differences between the arms in points, with 95 % intervals over the differences of each seed. An"
        " interval is unknown with one seed, or if all seeds differ equally.",
        columns=("Difference", "Points", "95 % interval"),
        rows=tuple(
            text_cells(
                f"{one.first}, minus {one.second}",
                _points(one.value),
                f"{_points(one.interval.low)} to {_points(one.interval.high)}" if one.interval else "unknown",
            )
            for one in record.differences
        ),
    )
    return arms, differences


def _arm_row(arm: ArmRecord) -> tuple[TableCell, ...]:
    low, high = 100 * arm.item_interval.low, 100 * arm.item_interval.high
    return text_cells(
        arm.name,
        str(arm.num_pauses),
        f"{100 * statistics.fmean(arm.values):.1f} ({low:.1f} to {high:.1f})",
        ", ".join(f"{100 * value:.1f}" for value in arm.values),
        arm.published,
        rounded(arm.tokens),
        f"{arm.seconds:.0f}",
    )


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", MINUS)


def _text_tables(record: TextReproductionRecord) -> tuple[Table, ...]:
    arms = Table(
        name=f"reproduction-{slug(record.name)}",
        caption=f"{record.title}: held-out loss in nats per real token of models with {record.parameters:,} parameters"
        f" ({counted(len(record.seeds), 'seed')}), each with its own pauses, over {record.held_out_targets:,} targets."
        f" All continue from one model without pauses with a loss of {record.plain_loss:.4f}, on as many real tokens."
        f" {record.source}: {record.published} {record.meaning}{_deviations(record.deviations)} The verdicts of this"
        " report do not use this experiment.",
        columns=("Arm", "Loss", "Each seed", "Perplexity", "Published", "Tokens", "FLOPs", "Seconds"),
        words=("Published",),
        rows=tuple(_text_arm_row(arm) for arm in record.arms),
    )
    differences = Table(
        name=f"reproduction-{slug(record.name)}-differences",
        caption="Differences between the arms' losses in nats; below 0, the first arm is better. The standard error"
        f" over other text is paired by {record.held_out_blocks:,} blocks of the held-out text, that over other seeds"
        " by seed. The 95 % interval has both.",
        columns=("Difference", "Nats", "Error over text", "Error over seeds", "95 % interval"),
        rows=tuple(
            text_cells(
                f"{one.first}, minus {one.second}",
                _nats(one.value),
                _error(one.text_error),
                _error(one.seed_error),
                f"{_nats(one.interval.low)} to {_nats(one.interval.high)}" if one.interval else "unknown",
            )
            for one in record.differences
        ),
    )
    return arms, differences


def _text_arm_row(arm: TextArmRecord) -> tuple[TableCell, ...]:
    return text_cells(
        arm.name,
        f"{arm.loss:.4f}",
        ", ".join(f"{loss:.4f}" for loss in arm.losses),
        f"{arm.perplexity:.2f}",
        arm.published,
        rounded(arm.real_tokens + arm.pause_tokens),
        f"{arm.flops:.2e}",
        f"{arm.seconds:.0f}",
    )


def _error(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.4f}"


def _nats(value: float) -> str:
    return f"{value:+.4f}".replace("-", MINUS)
