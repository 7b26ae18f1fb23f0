#!/usr/bin/env python
"""This project's preprocessing against Megatron-LM's tools and against the bare tokenizer, side by side.

    python benchmarks/preprocess.py --input 'c4-train.0000*.json.gz' --megatron-lm Megatron-LM --work work

Three comparisons on the same text with the same tokenizers, in tokens of the text for each processor second of all
processes (end-of-document tokens count, pauses do not):

- classic: ours, from gzipped shards, with pauses and hashes, against tools/preprocess_data.py, from one plain file (it
  does not read .gz without splitting the input first) and without pauses; --workers processes each.
- fast: ours against tools/preprocess_data_fast.py, one process and one gzipped file each; with peak memory.
- bare: the same runs of ours against the same encoder on the same texts in memory.

The rates are marginal: what a tool needs for the whole text less what it needs for the first part of every shard
(--small-share), and the tokens between the two. Start-up, on which Megatron-LM's tools spend five processor seconds and
which vanishes on a large corpus, is thus in no rate and is listed by itself: what a tool would need for no text at all.
The part of the first shard should have the 1000 documents on which our tool compares its encoders.
Ours and theirs alternate. Before any of it counts, the tokens of both are compared.

Where no encoder remembers what it has seen, as with the kinds unigram and t5, --copies makes more of a small text.

Without --megatron-lm only `bare` is measured. Megatron-LM's dependencies (triton among them) may live in an environment
of their own: --megatron-python.
"""

from __future__ import annotations

import argparse

from arguments import add_tool_flags, available_cores, check_tools, new_parser, require
from commands import Commands
from cpu_time import CommandError
from marginal import Candidate, Measured, Stretch, alternate
from sections import load_now
from tables import Compared, Setting, bare_section, classic_section, fast_section
from texts import Text, find_shards, get_text
from vocabularies import get_vocabulary

COMPARISONS = ("classic", "fast", "bare")
_MOST_DIFFERING = 0.001
"""Share of documents in which two tools may differ and still be said to do the same work."""


def main() -> None:
    """Measure, print the tables and keep them in the work folder."""
    arguments = _parse()
    commands = check_tools(arguments)
    shards = find_shards(arguments.input)
    require(
        arguments.workers <= len(shards),
        f"--workers {arguments.workers}: --input has {len(shards)} shards, and a process takes a shard; lower it",
    )
    part = get_text(shards, arguments.small_share, arguments.copies, arguments.work)
    whole = get_text(shards, 1, arguments.copies, arguments.work)
    compare = arguments.compare if arguments.megatron_lm else ["bare"]
    load = load_now()
    found: dict[str, list[Compared]] = {name: [] for name in COMPARISONS}
    try:
        for kind in arguments.kinds:
            benchmark = Benchmark(arguments, commands, part, whole, kind)
            if "classic" in compare:
                found["classic"].append(benchmark.classic())
            for name, compared in benchmark.single([name for name in compare if name != "classic"]).items():
                found[name].append(compared)
    except CommandError as error:
        raise SystemExit(str(error)) from None
    setting = Setting(
        name=arguments.name,
        json_megabytes=(part.json_bytes / 1e6, whole.json_bytes / 1e6),
        shards=len(shards),
        copies=arguments.copies,
        workers=arguments.workers,
        repeats=arguments.repeats,
        load=(load, load_now()),
    )
    sections = {"classic": classic_section, "fast": fast_section, "bare": bare_section}
    for number, (name, make_section) in enumerate(sections.items(), start=1):
        if found[name]:
            make_section(found[name], setting).save(arguments.work, f"{number}-{name}-{arguments.name}")


class Benchmark:
    """The comparisons of one tokenizer."""

    def __init__(self, arguments: argparse.Namespace, commands: Commands, part: Text, whole: Text, kind: str) -> None:
        """Train or find the tokenizer, and count the tokens of the text."""
        self._commands = commands
        self._workers: int = arguments.workers
        self._repeats: int = arguments.repeats
        size = arguments.vocabulary_size
        self._vocabulary = get_vocabulary(kind, arguments.vocabularies, list(whole.shards), size)
        tokens = []
        for text in (part, whole):
            commands.ours(self._vocabulary, text.shards, self._workers, pauses="none")
            counts = commands.same_tokens(against_theirs=False)
            tokens.append(counts["tokens"])
        self._documents = counts["documents"]
        self._encoder = commands.our_encoder
        self._stretch = Stretch(part, whole, *tokens)

    def classic(self) -> Compared:
        """Ours against ``preprocess_data.py``; what :meth:`__init__` left is ours without pauses."""
        run, vocabulary, workers = self._commands, self._vocabulary, self._workers
        run.classic(vocabulary, self._stretch.whole.lines, workers)
        differing = self._differing("preprocess_data.py")
        measured = self._measure(
            {
                "ours": lambda text: run.ours(vocabulary, text.shards, workers),
                "classic": lambda text: run.classic(vocabulary, text.lines, workers),
            }
        )
        return Compared(vocabulary, self._encoder, measured, self._documents, differing)

    def single(self, names: list[str]) -> dict[str, Compared]:
        """Ours against those of ``fast`` and ``bare`` that are among ``names``, by one process on one file."""
        run, vocabulary, differing = self._commands, self._vocabulary, 0
        others: dict[str, Candidate] = {}
        if "fast" in names and vocabulary.huggingface:
            whole = self._stretch.whole.one
            run.ours(vocabulary, (whole,), 1, pauses="none")
            run.fast(vocabulary, whole)
            differing = self._differing("preprocess_data_fast.py")
            others["fast"] = lambda text: run.fast(vocabulary, text.one)
        if "bare" in names:
            others["bare"] = lambda text: run.bare(vocabulary, self._encoder, text.one)
        if not others:
            return {}
        measured = self._measure({"ours": lambda text: run.ours(vocabulary, (text.one,), 1), **others})
        return {name: Compared(vocabulary, self._encoder, measured, self._documents, differing) for name in others}

    def _measure(self, candidates: dict[str, Candidate]) -> dict[str, Measured]:
        return alternate(self._vocabulary.kind, candidates, self._stretch, self._repeats)

    def _differing(self, tool: str) -> int:
        """Documents in which ours, which must have been written without pauses, differs from theirs."""
        differing = self._commands.same_tokens(against_theirs=True)["differing"]
        require(
            differing <= _MOST_DIFFERING * self._documents,
            f"{self._vocabulary.kind}: {differing} of {self._documents} documents have other tokens in {tool}: "
            "the two do not do the same work",
        )
        return differing


def _parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_tool_flags(parser)
    parser.add_argument("--compare", nargs="+", choices=COMPARISONS, default=COMPARISONS, help="default: all")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes (default: one a core)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of everything (default 3)")
    parser.add_argument("--small-share", type=float, default=0.25, help="part of the text run first (default 0.25)")
    parser.add_argument("--copies", type=int, default=1, help="times every shard repeats its text; see above")
    parser.add_argument("--name", default="text", help="name of the text in the report (default: text)")
    arguments = parser.parse_args()
    require(arguments.repeats >= 1, f"--repeats {arguments.repeats}: must be at least 1")
    require(arguments.workers >= 1, f"--workers {arguments.workers}: must be at least 1")
    require(arguments.copies >= 1, f"--copies {arguments.copies}: must be at least 1")
    require(0 < arguments.small_share < 1, f"--small-share {arguments.small_share}: must be between 0 and 1")
    return arguments


if __name__ == "__main__":
    main()
