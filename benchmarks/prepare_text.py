#!/usr/bin/env python
"""Text to benchmark on, where real C4 is too small a sample: C4 records, and other English around them, as C4 shards.

::

    python benchmarks/prepare_text.py --c4 'c4/*.json.gz' --records tasks --prose /usr/share/man/man? /usr/share/doc \\
        --output work/text

Who has some shards of C4 needs none of this: ``benchmarks/preprocess.py --input 'c4-train.0000*.json.gz'``. Encoders
that remember words they have seen look better on text that repeats itself, so no document is written twice; how much of
the text is C4 stands in ``text.json``. Documents are shuffled, the same way every time, and dealt out to the shards.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
import random
from pathlib import Path

from prose import prose_documents, record_documents

_SEED = 1234


def main() -> None:
    """Write the shards and ``text.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--c4", nargs="+", required=True, help="C4 shards (.json.gz), as paths or quoted globs")
    parser.add_argument(
        "--records", nargs="*", type=Path, default=[], help="folders of .jsonl files; long strings count"
    )
    parser.add_argument(
        "--prose", nargs="*", type=Path, default=[], help="folders of manual pages, .txt .md .rst .html"
    )
    parser.add_argument("--exclude", default="", help="pattern of file names that --prose passes over, e.g. 'gcloud*'")
    parser.add_argument("--shards", type=int, default=8, help="number of shards (default 8)")
    parser.add_argument("--megabytes", type=float, default=100.0, help="most text, in MB of UTF-8 (default 100)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    arguments = parser.parse_args()

    groups = {
        "c4": c4_texts(arguments.c4),
        "records": list(record_documents(arguments.records)),
        "prose": list(prose_documents(arguments.prose, arguments.exclude)),
    }
    shuffle = random.Random(_SEED)
    shuffle.shuffle(groups["prose"])
    chosen = _fill(groups, arguments.megabytes * 1e6)
    texts = [text for group in chosen.values() for text in group]
    shuffle.shuffle(texts)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for shard in range(arguments.shards):
        write_shard(
            arguments.output / f"text.{shard:05d}-of-{arguments.shards:05d}.json.gz", texts[shard :: arguments.shards]
        )
    summary = {
        name: {"documents": len(group), "megabytes": round(sum(len(text.encode()) for text in group) / 1e6, 2)}
        for name, group in chosen.items()
    }
    (arguments.output / "text.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))


def c4_texts(patterns: list[str]) -> list[str]:
    """The documents of the C4 files that ``patterns`` name, each once."""
    paths = sorted({path for pattern in patterns for path in glob.glob(pattern)})  # noqa: PTH207
    if not paths:
        raise SystemExit(f"--c4 {' '.join(patterns)}: no such file")
    texts: dict[str, None] = {}
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts.update(dict.fromkeys(json.loads(line)["text"] for line in file))
    return list(texts)


def _fill(groups: dict[str, list[str]], most_bytes: float) -> dict[str, list[str]]:
    """As many documents of each group, in order, as there is room for; earlier groups first."""
    chosen: dict[str, list[str]] = {}
    room = most_bytes
    for name, group in groups.items():
        chosen[name] = []
        for text in group:
            if (size := len(text.encode())) > room:
                break
            chosen[name].append(text)
            room -= size
    return chosen


def write_shard(path: Path, texts: list[str]) -> None:
    """Write ``texts`` as a shard in the format of C4, gzip's usual compression, one member."""
    records = ({"text": text, "timestamp": "1970-01-01T00:00:00Z", "url": "https://example.org/"} for text in texts)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=6, mtime=0))


if __name__ == "__main__":
    main()
