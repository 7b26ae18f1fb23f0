"""The benchmark's text in the forms that the tools read, made once from C4 shards (``.json.gz``) and kept.

Everything is streamed: the process that measures must stay small (see :mod:`cpu_time`).
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

_DONE = "done"


@dataclass(frozen=True)
class Text:
    """The same documents, in the same order, in three forms."""

    shards: tuple[Path, ...]
    """Gzipped shards."""
    one: Path
    """All shards in one gzipped file of one member."""
    lines: Path
    """All shards in one plain file."""

    @property
    def json_bytes(self) -> int:
        """Size of the documents as JSON lines."""
        return self.lines.stat().st_size


def find_shards(patterns: list[str]) -> list[Path]:
    """The ``.json.gz`` files that ``patterns`` name, sorted. Ends the program when a pattern has none."""
    found: set[Path] = set()
    for pattern in patterns:
        paths = {Path(name) for name in glob.glob(pattern)}  # noqa: PTH207 - absolute patterns too
        if not paths:
            raise SystemExit(f"--input {pattern}: no such file; give C4 shards, as paths or quoted globs")
        if other := next((path for path in paths if not path.name.endswith(".json.gz")), None):
            raise SystemExit(f"--input {other}: expected C4 shards named .json.gz")
        found |= paths
    return sorted(found)


def get_text(shards: list[Path], share: float, copies: int, work: Path) -> Text:
    """The first ``share`` of the documents of each of ``shards``, ``copies`` times over, in a folder of ``work``."""
    described = "\n".join(f"{path.resolve()} {path.stat().st_size} {share} {copies}" for path in shards)
    folder = work / "texts" / hashlib.sha256(described.encode()).hexdigest()[:16]
    text = Text(tuple(folder / "shards" / path.name for path in shards), folder / "one.json.gz", folder / "lines.jsonl")
    if not (folder / _DONE).is_file():
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        with open(text.lines, "wb") as lines, _gzip(text.one) as one:
            for source, target in zip(shards, text.shards, strict=True):
                with _gzip(target) as shard:
                    for _ in range(copies):
                        for line in _first_lines(source, share):
                            for file in (shard, one, lines):
                                file.write(line)
        (folder / _DONE).touch()
    return text


def repeated(text: Text, json_bytes: int) -> Path:
    """``text`` again and again in one gzipped file, ``json_bytes`` bytes of JSON or a little more; kept beside it."""
    path = text.one.with_name(f"repeated-{json_bytes}.json.gz")
    if not path.is_file():
        temporary = path.with_suffix(".tmp")
        with _gzip(temporary, level=1) as file:
            for _ in range(-(-json_bytes // text.json_bytes)):
                with open(text.lines, "rb") as lines:
                    file.writelines(lines)
        temporary.rename(path)
    return path


def _first_lines(shard: Path, share: float) -> Iterator[bytes]:
    count = None
    if share < 1:
        with gzip.open(shard) as lines:
            count = max(1, round(share * sum(1 for _ in lines)))
    with gzip.open(shard) as lines:
        yield from itertools.islice(lines, count)


def _gzip(path: Path, level: int = 6) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(path, "wb", compresslevel=level, mtime=0))
