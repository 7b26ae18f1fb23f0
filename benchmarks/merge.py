#!/usr/bin/env python
"""Merging shards into one dataset: ``pause-megatron merge-datasets`` against Megatron-core's IndexedDatasetBuilder.

    python benchmarks/merge.py --work work

Both merge sixteen shards, in turn, once with a quarter of the documents and once with all; the figures are what the
other three quarters cost, in processor time and memory for each document. The results are compared byte by byte.
Documents are as long as C4's, where copying token ids is part of the cost, and very short, where only the index is.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from arguments import new_parser, require
from cpu_time import CommandError, Cost, Spread, run_measured
from merge_shards import MERGED, shard_prefixes
from sections import Section, load_now

HERE = Path(__file__).parent
TOKENS_PER_DOCUMENT = (427, 4)
SHARDS = 16
PART = 4
"""Every shard of the part has one document where the whole has so many."""

_Run = dict[str, tuple[Cost, Cost]]


def main() -> None:
    """Measure, print the table and keep it in the work folder."""
    parser = new_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards, outputs and results")
    parser.add_argument("--documents", type=int, default=2_000_000, help="documents (default two million)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of everything (default 3)")
    arguments = parser.parse_args()
    require(arguments.documents >= SHARDS, f"--documents {arguments.documents}: must be at least {SHARDS}")
    require(arguments.repeats >= 1, f"--repeats {arguments.repeats}: must be at least 1")
    load = load_now()
    rows: list[tuple[str, ...]] = []
    measurements = {}
    for tokens in TOKENS_PER_DOCUMENT:
        runs = _measure_all(arguments, tokens)
        rows += [_row(who, tokens, arguments.documents - arguments.documents // PART, runs) for who in CANDIDATES]
        measurements[tokens] = [{who: [asdict(cost) for cost in pair] for who, pair in run.items()} for run in runs]
    section = Section(
        title="Merging",
        text=f"{arguments.documents / 1e6:g} million documents in {SHARDS} shards, less what a quarter of them takes; "
        f"{arguments.repeats} repeats. Median (lowest-highest) for each further document; the merged files are equal. "
        "`cat` only joins the .bin files, which both others do too.",
        header=("", "tokens a document", "ns of processor time", "bytes of memory"),
        rows=tuple(rows),
        load=(load, load_now()),
        measurements=measurements,
    )
    section.save(arguments.work, "5-merging")


def _measure_all(arguments: argparse.Namespace, tokens: int) -> list[_Run]:
    """All repeats with documents of ``tokens`` tokens on average."""
    folder = arguments.work / "merge"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for name, share in (("part", PART), ("whole", 1)):
            words = [folder / name, arguments.documents // share, SHARDS, tokens]
            subprocess.run([sys.executable, HERE / "merge_shards.py", *map(str, words)], check=True)
        return [_measure(folder, repeat) for repeat in range(arguments.repeats)]
    except CommandError as error:
        raise SystemExit(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, repeat: int) -> _Run:
    """What every candidate costs on the part and on the whole."""
    runs: _Run = {}
    for who in list(CANDIDATES)[:: -1 if repeat % 2 else 1]:
        merge = CANDIDATES[who]
        runs[who] = (merge(folder / "part", folder / who), merge(folder / "whole", folder / who))
    for suffix in (".bin", ".idx"):
        ours, theirs = folder / OURS / f"{MERGED}{suffix}", folder / THEIRS / f"{MERGED}{suffix}"
        require(filecmp.cmp(ours, theirs, shallow=False), f"{ours} and {theirs} differ")
    shutil.rmtree(folder / OURS)
    shutil.rmtree(folder / THEIRS)
    return runs


def _ours(shards: Path, output: Path) -> Cost:
    shutil.rmtree(output, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pause_megatron",
        "merge-datasets",
        "--input",
        str(shards),
        "--output",
        str(output),
    ]
    return run_measured(command, _log(output))


def _theirs(shards: Path, output: Path) -> Cost:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    importing = output / "import-seconds"
    script = str(HERE / "merge_with_builder.py")
    command = [sys.executable, script, str(importing), str(output / MERGED), *map(str, shard_prefixes(shards))]
    cost = run_measured(command, _log(output))
    return replace(cost, import_seconds=float(importing.read_text(encoding="utf-8")))


def _cat(shards: Path, output: Path) -> Cost:
    sources = [f"{prefix}.bin" for prefix in shard_prefixes(shards)]
    join = 'target=$1; shift; exec cat "$@" > "$target"'
    cost = run_measured(["sh", "-c", join, "sh", str(output), *sources], _log(output))
    output.unlink()
    return cost


def _log(output: Path) -> Path:
    return output.parent / "last-command.log"


OURS, THEIRS = "merge-datasets", "IndexedDatasetBuilder"
CANDIDATES: dict[str, Callable[[Path, Path], Cost]] = {OURS: _ours, THEIRS: _theirs, "cat": _cat}


def _row(who: str, tokens: int, more: int, runs: list[_Run]) -> tuple[str, ...]:
    pairs = [run[who] for run in runs]
    nanoseconds = Spread.of([(whole.work_seconds - part.work_seconds) / more * 1e9 for part, whole in pairs])
    memory = Spread.of([(whole.peak_bytes - part.peak_bytes) / more for part, whole in pairs])
    return who, str(tokens), nanoseconds.show(digits=0), memory.show(digits=1)


if __name__ == "__main__":
    main()
