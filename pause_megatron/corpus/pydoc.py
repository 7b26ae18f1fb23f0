"""A small English corpus that every Python carries: the language reference in ``pydoc_data.topics``, as C4 files.

For the demo and the tests, which must run where nothing can be downloaded. Only running text and its headings are kept:
tables, grammar, code and interpreter sessions go, hard-wrapped lines become one line a paragraph as in C4, and since
topics quote each other, a paragraph is kept where it first stands. Training and validation text share no paragraph.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from pause_megatron.atomic import new_folder
from pause_megatron.errors import UserError

VALIDATION_EVERY = 10
"""One document in so many is held out for validation."""
DOCUMENT_CHARACTERS = 1500
"""A document ends with the paragraph that takes it past this."""
_FEWEST_CHARACTERS = 300
_FEWEST_WORDS = 6
_TEXT_SHARE = 0.82
_TIMESTAMP = "1970-01-01T00:00:00Z"
"""C4 has a time of retrieval; this text was not retrieved."""

_UNDERLINED = re.compile(r"[ ]*(.+)\n[ ]*([*=\-~^])\2+")
_EMPHASIS = re.compile(r"(?<![\w*\"'])\*{1,2}(\w[^*\"]*?)\*{1,2}(?![\w*])")
_FOOTNOTE = re.compile(r"(^| )\[\d+\]")
_HYPHEN = re.compile(r"(?<=\w)-\n[ ]*(?=\w)")


@dataclass(frozen=True)
class PydocCorpus:
    """The files written."""

    train: tuple[Path, ...]
    """Training shards."""
    validation: Path
    """The held-out shard."""


def write_pydoc_corpus(folder: Path, train_shards: int = 4) -> PydocCorpus:
    """Write the corpus to the new folder ``folder``, as C4-format ``.json.gz`` files; the same bytes every time.

    Raises :class:`UserError` when ``folder`` exists, or when there are more shards than documents.
    """
    documents = list(pydoc_documents())
    train = [document for i, document in enumerate(documents) if i % VALIDATION_EVERY != VALIDATION_EVERY - 1]
    validation = documents[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]
    if not 1 <= train_shards <= len(train):
        raise UserError(f"train_shards {train_shards}: must be between 1 and {len(train)}, the number of documents")
    train_names = [f"pydoc-train.{i:05d}-of-{train_shards:05d}.json.gz" for i in range(train_shards)]
    validation_name = "pydoc-validation.00000-of-00001.json.gz"
    with new_folder(folder) as temporary:
        for i, name in enumerate(train_names):
            _write_shard(temporary / name, train[i::train_shards])
        _write_shard(temporary / validation_name, validation)
    return PydocCorpus(tuple(folder / name for name in train_names), folder / validation_name)


def pydoc_documents() -> Iterator[tuple[str, str]]:
    """Topic and text of each document, some hundred to some thousand characters, no paragraph twice."""
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
    """Headings and paragraphs of running text, each one line, and whether it is a heading."""
    for block in re.split(r"\n[ ]*\n", topic.strip("\n")):
        if heading := _UNDERLINED.fullmatch(block):
            yield heading[1], True
        elif _is_running_text(text := " ".join(_HYPHEN.sub("-", _FOOTNOTE.sub("", block)).split())):
            yield _EMPHASIS.sub(r"\1", text), False


def _is_running_text(text: str) -> bool:
    """Whether a block is prose, judged by its end and by its share of letters: code, tables and grammar have fewer."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        text.endswith((".", ".)", ":", ";", "?", "!", '"', "”"))
        and len(text.split()) >= _FEWEST_WORDS
        and letters >= _TEXT_SHARE * len(text)
        and ">>>" not in text
        and "::=" not in text
    )


def _write_shard(path: Path, documents: list[tuple[str, str]]) -> None:
    records = ({"text": text, "timestamp": _TIMESTAMP, "url": f"pydoc:{topic}"} for topic, text in documents)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))
