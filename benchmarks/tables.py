"""The tables of ``preprocess.py``."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cpu_time import Spread
from marginal import Measured
from sections import Section
from vocabularies import Vocabulary


@dataclass(frozen=True)
class Compared:
    """One comparison with one tokenizer."""

    vocabulary: Vocabulary
    encoder: str
    """What encoded in our tool."""
    measured: dict[str, Measured]
    """``ours`` and those it is compared with."""
    documents: int
    differing: int = 0
    """Documents in which ours and theirs have other tokens."""


@dataclass(frozen=True)
class Setting:
    """What all rows of a report have in common."""

    name: str
    """The text's."""
    json_megabytes: tuple[float, float]
    """Of the part and of the whole."""
    shards: int
    copies: int
    """Times the text is repeated."""
    workers: int
    repeats: int
    load: tuple[float, float]

    @property
    def text(self) -> str:
        """What was measured on."""
        copies = ""
        if self.copies > 1:
            copies = f" ({self.copies} copies of the text: encoders that remember words look faster than they are)"
        return f"{self.json_megabytes[1]:.1f} MB of JSON{copies} in {self.shards} shards, {self.repeats} repeats"


_UNIT = "Million tokens for each processor second: median (lowest-highest)."


def classic_section(rows: list[Compared], setting: Setting) -> Section:
    """Ours against ``preprocess_data.py``."""
    return _section(
        f"Against tools/preprocess_data.py, on {setting.name}",
        f"{setting.text}; {setting.workers} processes each. {_UNIT}",
        ("tokenizer (our encoder)", "ours", "theirs", "ratio", "start-up, CPU s", "documents that differ"),
        [(*_against(row, "classic"), _start_up(row, "classic"), _differing(row)) for row in rows],
        rows,
        setting,
    )


def fast_section(rows: list[Compared], setting: Setting) -> Section:
    """Ours against ``preprocess_data_fast.py``."""
    part, whole = setting.json_megabytes
    return _section(
        f"Against tools/preprocess_data_fast.py, on {setting.name}",
        f"{setting.text}, put into one gzipped file; one process each. {_UNIT} Most memory of a process in MB, for "
        f"files of {part:.1f} and {whole:.1f} MB of JSON.",
        (
            "tokenizer (our encoder)",
            "ours",
            "theirs",
            "ratio",
            "start-up, CPU s",
            "our MB",
            "their MB",
            "documents that differ",
        ),
        [
            (*_against(row, "fast"), _start_up(row, "fast"), _peaks(row, "ours"), _peaks(row, "fast"), _differing(row))
            for row in rows
        ],
        rows,
        setting,
    )


def bare_section(rows: list[Compared], setting: Setting) -> Section:
    """Ours against the encoder alone."""
    return _section(
        f"Against the bare tokenizer, on {setting.name}",
        f"{setting.text}, put into one gzipped file; one process; the bare tokenizer has it in memory. {_UNIT}",
        ("tokenizer (encoder)", "ours", "bare", "ours / bare"),
        [_against(row, "bare") for row in rows],
        rows,
        setting,
    )


def _section(
    title: str, text: str, header: tuple[str, ...], lines: list[tuple[str, ...]], rows: list[Compared], setting: Setting
) -> Section:
    return Section(
        title=title,
        text=text,
        header=header,
        rows=tuple(lines),
        load=setting.load,
        measurements={
            row.vocabulary.kind: {
                name: asdict(measured) | {"rates": measured.rates} for name, measured in row.measured.items()
            }
            for row in rows
        },
    )


def _against(row: Compared, other: str) -> tuple[str, ...]:
    ours, theirs = row.measured["ours"].rates, row.measured[other].rates
    ratio = Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
    return (
        f"{row.vocabulary.kind} ({row.encoder})",
        Spread.of(ours).show(1e6),
        Spread.of(theirs).show(1e6),
        f"**{ratio.median:.2f}** ({ratio.low:.2f}-{ratio.high:.2f})",
    )


def _start_up(row: Compared, other: str) -> str:
    return f"{row.measured['ours'].start_up.median:.1f} / {row.measured[other].start_up.median:.1f}"


def _peaks(row: Compared, name: str) -> str:
    part, whole = row.measured[name].peaks
    return f"{part / 1e6:.0f}, {whole / 1e6:.0f}"


def _differing(row: Compared) -> str:
    return f"{row.differing} of {row.documents}"
