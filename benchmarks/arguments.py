"""Flags that several benchmarks take, and their checks: what cannot work ends the program with one line."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from commands import CLASSIC, FAST, Commands
from vocabularies import KINDS


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the script's docstring as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_tool_flags(parser: argparse.ArgumentParser) -> None:
    """``--input``, ``--work``, ``--megatron-lm``, ``--megatron-python``, ``--kinds``, ``--vocabulary-size``."""
    parser.add_argument("--input", nargs="+", required=True, help="C4 shards (.json.gz), as paths or quoted globs")
    parser.add_argument("--work", type=Path, required=True, help="folder for texts, tokenizers, outputs and results")
    parser.add_argument("--megatron-lm", type=Path, help="checkout of Megatron-LM; not given: its tools are left out")
    parser.add_argument("--megatron-python", default=sys.executable, help="interpreter for Megatron-LM (default: this)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="tokenizers (default: all)")
    parser.add_argument("--vocabulary-size", type=int, default=32_000, help="tokens of each tokenizer (default 32000)")
    parser.add_argument(
        "--vocabularies", type=Path, help="folder of tokenizers of an earlier run (default: WORK/vocabularies)"
    )


def check_tools(arguments: argparse.Namespace) -> Commands:
    """Where the tools are, after checking that they are there."""
    checkout: Path | None = arguments.megatron_lm
    if checkout:
        for tool in (CLASSIC, FAST):
            if not (checkout / tool).is_file():
                raise SystemExit(f"--megatron-lm {checkout}: no {tool} there; give the root of a Megatron-LM checkout")
    if arguments.vocabulary_size < 1000:
        raise SystemExit(f"--vocabulary-size {arguments.vocabulary_size}: must be at least 1000")
    if not arguments.vocabularies:
        arguments.vocabularies = arguments.work / "vocabularies"
    arguments.work.mkdir(parents=True, exist_ok=True)
    return Commands(arguments.work, checkout, arguments.megatron_python)


def require(condition: bool, message: str) -> None:
    """End the program with ``message`` unless ``condition``."""
    if not condition:
        raise SystemExit(message)


def available_cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0))
