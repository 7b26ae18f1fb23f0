"""A few draws of the reader fuzz for each kind of file; ``make fuzz-readers`` has many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readers.fuzz import Kind, fuzz
from tests.readers.kinds import KINDS

SLOW = (
    "report's inputs",
    "diagnosis",
    "model folder",
    "export",
    "finetuned model",
    "grid",
    "--config file",
    "task records",
)
"""Kinds that take much longer to read than others."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_gives_the_same_result_or_one_line(kind: Kind, tmp_path: Path) -> None:
    draws = 2 if kind.name in SLOW else 8
    counts, faults = fuzz(kind, tmp_path, draws, seed=0)
    assert not faults, "\n".join(f"{fault.outcome}: {fault.draw}\n{fault.details}" for fault in faults)
    assert sum(counts[outcome] for outcome in ("correct", "refused", "silent")) == draws


def test_a_reader_that_fails_otherwise_or_says_nothing_is_a_fault(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "a").write_bytes(bytes(100))

    def read(folder: Path) -> bytes:
        content = (folder / "a").read_bytes()
        if len(content) < 100:
            raise IndexError(len(content))
        return content

    kind = Kind(name="bytes", make=make, read=read, files=("*",), checked=("*",))
    counts, faults = fuzz(kind, tmp_path, 60, seed=0)
    assert {fault.outcome for fault in faults} == {"traceback", "silent"}
    assert len(faults) == counts["traceback"] + counts["silent"] == counts["traceback"] + counts["unexplained"]
