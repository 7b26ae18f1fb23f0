"""What a benchmark found, as one section of the report: kept as JSON in the work folder, printed as Markdown.

:mod:`report` puts the sections together.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = "sections"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table with its heading and what has to be said about it."""

    title: str
    text: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    load: tuple[float, float]
    """Load average of the machine (last minute) when the measurements began and ended."""
    measurements: Any
    """The single measurements, as plain values."""

    def save(self, work: Path, name: str) -> None:
        """Write the section to ``work`` and print it."""
        folder = work / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        print(self.markdown(), flush=True)

    def markdown(self) -> str:
        """The section as Markdown."""
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        begin, end = self.load
        return f"## {self.title}\n\n{self.text}\n\n{table}\n\nLoad average: {begin:.1f} to {end:.1f}.\n"


def read_section(path: Path) -> Section:
    """The section that :meth:`Section.save` wrote to ``path``."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(map(tuple, fields.pop("rows")))
    return Section(header=tuple(fields.pop("header")), rows=rows, load=tuple(fields.pop("load")), **fields)


def load_now() -> float:
    """Processes that wanted to run, on average over the last minute."""
    return os.getloadavg()[0]
