#!/usr/bin/env python
"""RESULTS.md: what the benchmarks left in the work folder, the machine, and the estimate for all of C4.

python benchmarks/report.py --work work --text work/text/text.json > benchmarks/RESULTS.md
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import sections
from arguments import available_cores, new_parser, require

C4_TOKENS = 156e9
C4_GZIP_BYTES = 305e9
C4_SHARDS = 1024
CORES = 64
_PACKAGES = (
    "numpy",
    "sentencepiece",
    "tokenizers",
    "gigatoken",
    "isal",
    "msgspec",
    "transformers",
    "torch",
    "megatron-core",
    "deepspeed",
)

_COMMANDS = """```
python benchmarks/prepare_text.py --c4 'c4/*.json.gz' --records tasks --prose DOCS --shards 4 --output work/text
run() { python benchmarks/"$@" --megatron-lm Megatron-LM --work work; }
run preprocess.py --input 'work/text/*.json.gz' --name mixed --repeats 3
run preprocess.py --input 'c4/*.json.gz' --name c4-40x --copies 40 --repeats 3
run memory.py --input 'work/text/*.json.gz'
python benchmarks/insertion.py --work work
python benchmarks/merge.py --work work
python benchmarks/train_step.py --work work --repeats 30
python benchmarks/conversion.py --work work
python benchmarks/generation.py --work work --threads 1
python benchmarks/evaluation.py --data tasks --work work --documents 48
python benchmarks/report.py --work work --text work/text/text.json > benchmarks/RESULTS.md
```"""


def main() -> None:
    """Print the report."""
    parser = new_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="work folder of the benchmarks")
    parser.add_argument("--text", type=Path, help="text.json of prepare_text.py, if its text was used")
    parser.add_argument("--megatron-lm", default="", help="revision of the Megatron-LM checkout")
    parser.add_argument("--note", default="", help="what else to say about the text")
    arguments = parser.parse_args()
    folder = arguments.work / sections.FOLDER
    found = {path.stem: sections.read_section(path) for path in sorted(folder.glob("*.json"))}
    require(bool(found), f"--work {arguments.work}: no results there; run the other benchmarks first")
    print("# Benchmark results\n")
    print(_introduction(arguments.text, arguments.note, arguments.megatron_lm))
    for section in found.values():
        print(section.markdown())
    print(_estimate({name: section.measurements for name, section in found.items() if name.startswith("1-")}))


def _introduction(text: Path | None, note: str, megatron_lm: str) -> str:
    """Machine, versions, text, commands."""
    lines = [
        "Written by `report.py`. What is measured, and how, stands at the top of each script.\n",
        f"- Machine: {_processor()}, {available_cores()} cores, {_memory_gigabytes():.0f} GB, not alone: see "
        f"the load averages. Python {platform.python_version()}.",
        f"- Versions: {', '.join(f'{name} {_version(name)}' for name in _PACKAGES)}"
        + (f"; Megatron-LM {megatron_lm}." if megatron_lm else "."),
    ]
    if text:
        groups = json.loads(text.read_text(encoding="utf-8"))
        total = sum(group["megabytes"] for group in groups.values())
        shares = ", ".join(
            f"{name} {group['megabytes']:.1f} MB ({group['megabytes'] / total:.0%}, {group['documents']} documents)"
            for name, group in groups.items()
        )
        lines.append(
            f"- The text `mixed`: {shares}, every document once. The text `c4-40x` is its C4 "
            f"records alone, forty copies. {note}".rstrip()
        )
    return "\n".join([*lines, "\n" + _COMMANDS, ""])


def _estimate(classic: dict[str, Any]) -> str:
    """How long all of C4 takes at the measured rates."""
    lines = [
        "## All of C4, estimated\n",
        f"{C4_TOKENS / 1e9:.0f}B tokens and {C4_GZIP_BYTES / 1e9:.0f} GB of gzip in {C4_SHARDS} shards, on {CORES} "
        "cores as fast as each of these, at the rates of the first tables: a lower bound, since memory and disks are "
        "shared. Theirs cannot reach its figure with one partition, whose results all pass through one process.\n",
        "| text, tokenizer | core-hours, ours | core-hours, theirs | minutes, ours | read + write, GB/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, kinds in classic.items():
        for kind, measured in kinds.items():
            ours, theirs = (statistics.median(measured[who]["rates"]) for who in ("ours", "classic"))
            seconds = C4_TOKENS / ours / CORES
            traffic = (C4_GZIP_BYTES + 2 * C4_TOKENS) / seconds / 1e9
            lines.append(
                f"| {name.split('-', 2)[2]}, {kind} | {C4_TOKENS / ours / 3600:.1f} "
                f"| {C4_TOKENS / theirs / 3600:.0f} | {seconds / 60:.1f} | {traffic:.1f} |"
            )
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gigabytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
