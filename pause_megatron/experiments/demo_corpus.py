"""Text for the demo and the tests, in the format of C4's files: from Python's own documentation, or from C4.

Every Python carries its language reference in ``pydoc_data.topics``, so the demo needs no download. Only running text
and headings are kept: no tables, grammar, code or interpreter sessions. Each paragraph becomes one line, as in C4.
Topics quote each other, so only the first copy of a paragraph is kept. Training and validation text therefore share no
paragraph.
"""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

from pause_megatron.atomic import new_folder
from pause_megatron.corpus import ReadOptions, find_sources
from pause_megatron.errors import UserError

TRAIN_SHARDS = 4
VALIDATION_EVERY = 10
"""Every tenth document goes to the validation file."""
FEWEST_DOCUMENTS = 50
DOCUMENT_CHARACTERS = 1500
"""A document ends with the paragraph that reaches this length."""
_FEWEST_CHARACTERS = 300
_FEWEST_WORDS = 6
_TEXT_SHARE = 0.82
_TIMESTAMP = "1970-01-01T00:00:00Z"
"""C4 records when a page was retrieved; this text has no such time."""

_UNDERLINED = re.compile(r"[ ]*(.+)\n[ ]*([*=\-~^])\2+")
_EMPHASIS = re.compile(r"(?<![\w*\"'])\*{1,2}(\w[^*\"]*?)\*{1,2}(?![\w*])")
_FOOTNOTE = re.compile(r"(^| )\[\d+\]")
_HYPHEN = re.compile(r"(?<=\w)-\n[ ]*(?=\w)")


class CorpusFiles(NamedTuple):
    """Training shards and the held-out shard of a corpus."""

    train: tuple[Path, ...]
    validation: Path


def write_c4_corpus(patterns: Sequence[str], folder: Path, *, max_documents: int) -> CorpusFiles:
    """Write the first ``max_documents`` documents of the files that match ``patterns`` to the new folder ``folder``.

    Raises :class:`UserError` if no file matches, a file cannot be read, or there are too few documents.
    """
    sources = find_sources(patterns)
    texts = (text for source in sources for block in source.read(ReadOptions()) for text in block.texts)
    records = [{"text": text} for text in islice(texts, max_documents)]
    if len(records) < FEWEST_DOCUMENTS:
        raise UserError(f"--c4 {' '.join(patterns)}: {len(records)} documents; give at least {FEWEST_DOCUMENTS}")
    return _write_corpus(folder, "c4", records, TRAIN_SHARDS)


def write_pydoc_corpus(folder: Path, train_shards: int = TRAIN_SHARDS) -> CorpusFiles:
    """Write the text of Python's documentation to the new folder ``folder``; the bytes are the same every time.

    Raises :class:`UserError` if ``folder`` exists, or if there are more shards than documents.
    """
    records = [{"text": text, "timestamp": _TIMESTAMP, "url": f"pydoc:{topic}"} for topic, text in pydoc_documents()]
    return _write_corpus(folder, "pydoc", records, train_shards)


def _write_corpus(folder: Path, name: str, records: Sequence[dict[str, str]], train_shards: int) -> CorpusFiles:
    train = [record for i, record in enumerate(records) if i % VALIDATION_EVERY != VALIDATION_EVERY - 1]
    if not 1 <= train_shards <= len(train):
        raise UserError(f"train_shards {train_shards}: must be between 1 and {len(train)}, the number of documents")
    shards = {
        f"{name}-train.{i:05d}-of-{train_shards:05d}.json.gz": train[i::train_shards] for i in range(train_shards)
    }
    validation = f"{name}-validation.00000-of-00001.json.gz"
    with new_folder(folder) as temporary:
        for file, part in {**shards, validation: records[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]}.items():
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part)
            (temporary / file).write_bytes(gzip.compress(lines.encode(), mtime=0))
    return CorpusFiles(tuple(folder / file for file in shards), folder / validation)


def pydoc_documents() -> Iterator[tuple[str, str]]:
    """Yield topic and text of each document: about 300 to 6000 characters, no paragraph twice."""
    seen: set[str] = set()
    for topic in sorted(topics):
        document: list[str] = []
        heading: list[str] = []
        for text, is_heading in _paragraphs(topics[topic]):
            if is_heading:
                heading = [text]
            elif text not in seen:
                seen.add(text)
                length = sum(map(len, document))
                if length >= DOCUMENT_CHARACTERS or (heading and length >= _FEWEST_CHARACTERS):
                    yield topic, "\n".join(document)
                    document = []
                document += [*heading, text]
                heading = []
        if sum(map(len, document)) >= _FEWEST_CHARACTERS:
            yield topic, "\n".join(document)


def _paragraphs(topic: str) -> Iterator[tuple[str, bool]]:
    """Yield headings and paragraphs of running text, one line each, and whether the line is a heading."""
    for block in re.split(r"\n[ ]*\n", topic.strip("\n")):
        if heading := _UNDERLINED.fullmatch(block):
            yield heading[1], True
        elif _is_running_text(text := " ".join(_HYPHEN.sub("-", _FOOTNOTE.sub("", block)).split())):
            yield _EMPHASIS.sub(r"\1", text), False


def _is_running_text(text: str) -> bool:
    """Judge by the last character and the share of letters: code, tables and grammar have fewer."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        text.endswith((".", ".)", ":", ";", "?", "!", '"', "”"))
        and len(text.split()) >= _FEWEST_WORDS
        and letters >= _TEXT_SHARE * len(text)
        and ">>>" not in text
        and "::=" not in text
    )
