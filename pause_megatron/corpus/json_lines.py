"""JSON lines in: C4's ``.json.gz`` files and the like, one JSON object a line with the document under one key.

The hot path of reading. A block of whole lines is parsed at once, other keys are skipped unread, and no Python code
runs for a document; only a block with something wrong or unusual in it is read line by line. Lines of white space alone
are no documents, as for other JSON lines tools, but count as lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pause_megatron.corpus.blocks import Block, InputError, ReadOptions
from pause_megatron.corpus.failures import Failures
from pause_megatron.corpus.lines import OverlongLine, line_blocks
from pause_megatron.corpus.unpack import Unpacked

JSON_SUFFIXES = (".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst", ".json", ".jsonl")

_BLANK = re.compile(rb"[ \t\r]*")
_PARSING_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ERRORS_PER_BLOCK = 1000
"""A file that is no JSON at all has millions of errors; they are handed on as they are found."""


@dataclass(frozen=True, kw_only=True)
class JsonLinesSource:
    """One file of JSON lines."""

    name: str
    location: str
    size_bytes: int

    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the file's documents in order.

        Raises :class:`~pause_megatron.errors.UserError` when the file cannot be opened and, unless errors are to be
        skipped, at the first line that is no JSON object with a string under ``text_key``, is not UTF-8 or is too long,
        and where gzip or Zstandard data is damaged or cut short.
        """
        unpacked = Unpacked(Path(self.location))
        lines = _LineReader(options, Failures(self.location, "line", options))
        for block in line_blocks(unpacked, options.block_bytes, options.max_document_bytes):
            if isinstance(block, OverlongLine):
                yield lines.overlong(block)
            elif read := lines.parse(block):
                del block
                yield read
            else:
                yield from lines.parse_each(block, cut=unpacked.damage is not None)
        if unpacked.damage is not None:
            yield lines.ended(unpacked.damage)


class _LineReader:
    """Parses blocks of lines and knows the number of the line it is at."""

    def __init__(self, options: ReadOptions, failures: Failures) -> None:
        self._decoder = _decoder(options.text_key)
        self._max_line_bytes = options.max_document_bytes
        self._expected = f'one JSON object a line with a string "{options.text_key}"'
        self._failures = failures
        self._line = 0
        """Number of the last line that was read."""

    def parse(self, block: bytes) -> Block | None:
        """Read all lines of ``block`` at once; None when they have to be looked at one by one."""
        newlines = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
        lines = len(newlines) + (not block.endswith(b"\n"))
        if _longest_line(newlines, len(block)) > self._max_line_bytes:
            return None
        try:
            records = self._decoder.decode_lines(block)
        except _PARSING_ERRORS:
            return None
        if records and not (len(records) == lines and _one_object_a_line(block, newlines)):
            return None
        self._line += lines
        return Block([record.text for record in records], len(block))

    def parse_each(self, block: bytes, *, cut: bool) -> Iterator[Block]:
        """Read the lines of ``block`` one by one.

        ``cut``: the file is known to be damaged behind ``block``, which explains a last line without a newline.
        """
        texts: list[str] = []
        errors: list[InputError] = []
        start = done = 0
        while start < len(block):
            end = block.find(b"\n", start)
            end = len(block) if end < 0 else end
            self._line += 1
            if reason := self._parse_line(block, start, end, texts):
                if cut and end == len(block):
                    self._line -= 1
                else:
                    errors.append(self._failures.record(self._line, reason, self._expected))
            start = end + 1
            if len(errors) == _ERRORS_PER_BLOCK:
                yield Block(texts, start - done, tuple(errors))
                texts, errors, done = [], [], start
        yield Block(texts, len(block) - done, tuple(errors))

    def _parse_line(self, block: bytes, start: int, end: int, texts: list[str]) -> str | None:
        """Append the document of one line to ``texts``, if it is not blank; returns what is wrong with it."""
        if end - start > self._max_line_bytes:
            return self._too_long(end - start)
        if _BLANK.fullmatch(block, start, end):
            return None
        try:
            texts.append(self._decoder.decode(memoryview(block)[start:end]).text)
        except msgspec.ValidationError as error:
            return str(error)
        except msgspec.DecodeError as error:
            return f"not valid JSON ({error})"
        except UnicodeDecodeError as error:
            return f"not valid UTF-8 ({error.reason})"
        except RecursionError:
            return "nested too deeply"
        return None

    def overlong(self, line: OverlongLine) -> Block:
        """Report a line that was thrown away."""
        self._line += 1
        error = self._failures.record(self._line, self._too_long(line.bytes), self._expected)
        return Block([], line.bytes, (error,))

    def ended(self, damage: str) -> Block:
        """Report that the file could not be read to its end."""
        return Block([], 0, (self._failures.file(self._line, damage),))

    def _too_long(self, line_bytes: int) -> str:
        return f"the line has {line_bytes} bytes, more than the {self._max_line_bytes} allowed"


def _longest_line(newlines: np.ndarray[Any, np.dtype[np.int64]], block_bytes: int) -> int:
    ends = np.append(newlines, block_bytes)
    return int(np.diff(ends, prepend=-1).max()) - 1


def _one_object_a_line(block: bytes, newlines: np.ndarray[Any, np.dtype[np.int64]]) -> bool:
    """Whether each of the newlines stands between two objects, given that ``block`` could be parsed.

    It does where the characters beside it are ``}`` and ``{``, which never are neighbours within an object. The parser
    itself would take an object that goes on in the next line, or two in one; what is right must not depend on blocks.
    """
    characters = np.frombuffer(block, dtype=np.uint8)
    inner = newlines[:-1] if block.endswith(b"\n") else newlines
    return bool((characters[newlines - 1] == ord("}")).all() and (characters[inner + 1] == ord("{")).all())


@lru_cache(maxsize=8)
def _decoder(text_key: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(msgspec.defstruct("Record", [("text", str)], rename={"text": text_key}))
