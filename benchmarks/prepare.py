#!/usr/bin/env python
"""Texts for the benchmarks.

    python benchmarks/prepare.py --c4 'c4/*.json.gz' --text tasks /usr/share/doc --output work/text

writes shards in C4's format, which you need only if you have too little of C4: its documents, then paragraphs from the
.txt, .md and .rst files and the strings of the .jsonl files in the folders. No document is written twice, because
encoders that cache words look faster on text that repeats. text.json records how much of the text is C4's.

The other benchmarks import the rest: the forms of a text that the tools read.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

_SEED = 1234
_DOCUMENT_CHARACTERS = 2000
"""A document ends with the paragraph that exceeds this; C4's documents have about this length."""
_PARAGRAPH_CHARACTERS = 200
"""Shorter paragraphs are left out, such as headings and table rows."""
DONE = "done"


@dataclass(frozen=True)
class Text:
    """The same documents, in the same order, in three forms."""

    shards: tuple[Path, ...]
    """Gzipped shards."""
    one: Path
    """All shards in one gzipped file with one member."""
    lines: Path
    """All shards in one plain file."""

    @property
    def json_bytes(self) -> int:
        """Size of the documents as JSON lines."""
        return self.lines.stat().st_size


def find_shards(patterns: list[str], flag: str = "--input") -> list[Path]:
    """The ``.json.gz`` files of ``patterns``, sorted. Ends the program if a pattern has no files."""
    found: set[Path] = set()
    for pattern in patterns:
        paths = {Path(name) for name in glob.glob(pattern)}  # noqa: PTH207 - absolute patterns too
        if not paths:
            raise SystemExit(f"{flag} {pattern}: no such file; give C4 shards, as paths or quoted globs")
        if other := next((path for path in paths if not path.name.endswith(".json.gz")), None):
            raise SystemExit(f"{flag} {other}: expected C4 shards named .json.gz")
        found |= paths
    return sorted(found)


def get_text(shards: list[Path], share: float, copies: int, work: Path) -> Text:
    """The first ``share`` of the documents of each shard, ``copies`` times, in a folder of ``work`` that is reused."""
    described = "\n".join(f"{path.resolve()} {path.stat().st_size} {share} {copies}" for path in shards)
    folder = work / "texts" / hashlib.sha256(described.encode()).hexdigest()[:16]
    text = Text(tuple(folder / "shards" / path.name for path in shards), folder / "one.json.gz", folder / "lines.jsonl")
    if not (folder / DONE).is_file():
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        with open(text.lines, "wb") as lines, _gzip(text.one) as one:
            for source, target in zip(shards, text.shards, strict=True):
                with _gzip(target) as shard:
                    for line in itertools.chain.from_iterable(_first_lines(source, share) for _ in range(copies)):
                        for file in (shard, one, lines):
                            file.write(line)
        (folder / DONE).touch()
    return text


def _first_lines(shard: Path, share: float) -> Iterator[bytes]:
    with gzip.open(shard) as lines:
        count = max(1, round(share * sum(1 for _ in lines)))
    with gzip.open(shard) as lines:
        yield from itertools.islice(lines, count)


def _gzip(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(path, "wb", compresslevel=6, mtime=0))


def c4_texts(path: Path) -> Iterator[str]:
    """The texts of a shard."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)


def _documents(folders: list[Path]) -> Iterator[str]:
    """Documents of about 2000 characters from the long paragraphs and strings of ``folders``, each used once."""
    seen: set[str] = set()
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        document: list[str] = []
        for paragraph in _paragraphs(path):
            if len(paragraph) >= _PARAGRAPH_CHARACTERS and paragraph not in seen:
                seen.add(paragraph)
                document.append(paragraph)
                if sum(map(len, document)) >= _DOCUMENT_CHARACTERS:
                    yield "\n".join(document)
                    document = []
        if document:
            yield "\n".join(document)


def _paragraphs(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [value for record in records for value in record.values() if isinstance(value, str)]
    if path.suffix in (".txt", ".md", ".rst"):
        blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="ignore"))
        return [" ".join(block.split()) for block in blocks]
    return []


def main() -> None:
    """Write the shards and ``text.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--c4", nargs="+", required=True, help="C4 shards (.json.gz), as paths or quoted globs")
    parser.add_argument("--text", nargs="*", type=Path, default=[], help="folders of .txt, .md, .rst and .jsonl files")
    parser.add_argument("--shards", type=int, default=8, help="number of shards (default: 8)")
    parser.add_argument("--megabytes", type=float, default=100.0, help="maximal amount of text in MB (default: 100)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    arguments = parser.parse_args()
    groups = {
        "c4": dict.fromkeys(text for path in find_shards(arguments.c4, "--c4") for text in c4_texts(path)),
        "text": dict.fromkeys(_documents(arguments.text)),
    }
    room, texts, summary = arguments.megabytes * 1e6, [], {}
    for name, group in groups.items():
        sizes = list(itertools.accumulate(len(text.encode()) for text in group))
        chosen = [text for text, size in zip(group, sizes, strict=True) if size <= room]
        used = sizes[len(chosen) - 1] if chosen else 0
        summary[name] = {"documents": len(chosen), "megabytes": round(used / 1e6, 2)}
        texts, room = texts + chosen, room - used
    random.Random(_SEED).shuffle(texts)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for index in range(arguments.shards):
        with _gzip(arguments.output / f"text.{index:05d}-of-{arguments.shards:05d}.json.gz") as file:
            for text in texts[index :: arguments.shards]:
                file.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())
    (arguments.output / "text.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
