"""Divides C4 files into training shards and a held-out shard, for a demo on real text."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from pause_megatron.atomic import new_folder
from pause_megatron.corpus import ReadOptions, Source, find_sources
from pause_megatron.errors import UserError

TRAIN_SHARDS = 4
VALIDATION_EVERY = 10
"""One document in so many is held out."""
FEWEST_DOCUMENTS = 50


def write_c4_corpus(patterns: Sequence[str], folder: Path, *, max_documents: int) -> None:
    """Write the first ``max_documents`` documents of the files ``patterns`` name to the new folder ``folder``.

    Training documents go to ``c4-train.*.json.gz`` in turn, every tenth to ``c4-validation.*.json.gz``.

    Raises :class:`UserError` when no file matches, a file cannot be read, or there are too few documents.
    """
    documents = list(islice(_documents(find_sources(patterns)), max_documents))
    if len(documents) < FEWEST_DOCUMENTS:
        raise UserError(f"--c4 {' '.join(patterns)}: {len(documents)} documents; give at least {FEWEST_DOCUMENTS}")
    train = [text for index, text in enumerate(documents) if index % VALIDATION_EVERY != VALIDATION_EVERY - 1]
    with new_folder(folder) as temporary:
        for shard in range(TRAIN_SHARDS):
            name = f"c4-train.{shard:05d}-of-{TRAIN_SHARDS:05d}.json.gz"
            _write_shard(temporary / name, train[shard::TRAIN_SHARDS])
        _write_shard(
            temporary / "c4-validation.00000-of-00001.json.gz", documents[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]
        )


def _documents(sources: Sequence[Source]) -> Iterator[str]:
    return (text for source in sources for block in source.read(ReadOptions()) for text in block.texts)


def _write_shard(path: Path, documents: Sequence[str]) -> None:
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))
