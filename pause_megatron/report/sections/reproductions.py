"""Published small experiments that ``pause-megatron reproduce`` repeated, next to their published results.

No verdict of the report uses them: they are other tasks, trained in another way.
"""

import statistics
from collections.abc import Sequence

from pause_megatron.records.reproduction import ArmRecord, ReproductionRecord
from pause_megatron.report.elements import Section, Table, TableCell, slug, text_cells
from pause_megatron.report.labels import MINUS, counted, rounded


def reproductions_section(records: Sequence[ReproductionRecord]) -> Section:
    """Build the section; it is empty without repeated experiments."""
    return Section(
        anchor="reproductions",
        heading="Published experiments, repeated",
        tables=tuple(table for record in records for table in _tables(record)),
    )


def _tables(record: ReproductionRecord) -> tuple[Table, ...]:
    deviations = f" What differs here: {' '.join(record.deviations)}" if record.deviations else ""
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
