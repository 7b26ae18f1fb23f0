#!/usr/bin/env python
"""Memory on a shard of C4's size: ours against Megatron-LM's preprocess_data_fast.py, one process and one file each.

    python benchmarks/memory.py --input 'c4-train.0000*.json.gz' --megatron-lm Megatron-LM --work work

The text is repeated until there are as many megabytes of JSON as in one of C4's 1024 shards (--megabytes), and half as
many. Repeated text says nothing about speed, hence no rates here.
"""

from __future__ import annotations

from arguments import add_tool_flags, check_tools, new_parser, require
from cpu_time import CommandError
from sections import Section, load_now
from texts import find_shards, get_text, repeated
from vocabularies import get_vocabulary


def main() -> None:
    """Measure, print the table and keep it in the work folder."""
    parser = new_parser(__doc__)
    add_tool_flags(parser)
    parser.add_argument("--megabytes", type=int, default=825, help="of JSON in the larger file (default 825)")
    arguments = parser.parse_args()
    require(arguments.megabytes >= 1, f"--megabytes {arguments.megabytes}: must be at least 1")
    commands = check_tools(arguments)
    shards = find_shards(arguments.input)
    text = get_text(shards, 1, 1, arguments.work)
    files = [repeated(text, arguments.megabytes * 1_000_000 // divisor) for divisor in (2, 1)]
    load = load_now()
    rows = []
    measurements = {}
    try:
        for kind in arguments.kinds:
            vocabulary = get_vocabulary(kind, arguments.vocabularies, shards, arguments.vocabulary_size)
            ours = [commands.ours(vocabulary, (file,), 1).peak_bytes for file in files]
            encoder = commands.our_encoder
            theirs = []
            if commands.megatron_lm and vocabulary.huggingface:
                theirs = [commands.fast(vocabulary, file).peak_bytes for file in files]
            share = f"{ours[-1] / theirs[-1]:.2f}" if theirs else "-"
            rows.append((f"{kind} ({encoder})", *map(_show, ours), *(map(_show, theirs) if theirs else "--"), share))
            measurements[kind] = {"ours": ours, "theirs": theirs}
    except CommandError as error:
        raise SystemExit(str(error)) from None
    sizes = [f"{arguments.megabytes / divisor:g} MB" for divisor in (2, 1)]
    section = Section(
        title="Memory on a shard of C4's size",
        text="Most memory of one process in MB, by megabytes of JSON in the one gzipped file. The fast tool takes "
        "byte-pair encoders only.",
        header=(
            "tokenizer (our encoder)",
            *(f"ours, {size}" for size in sizes),
            *(f"theirs, {size}" for size in sizes),
            "ours / theirs",
        ),
        rows=tuple(rows),
        load=(load, load_now()),
        measurements=measurements,
    )
    section.save(arguments.work, "2-memory")


def _show(peak_bytes: int) -> str:
    return f"{peak_bytes / 1e6:.0f}"


if __name__ == "__main__":
    main()
