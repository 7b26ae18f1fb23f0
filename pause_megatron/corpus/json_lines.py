"""JSON lines in: C4's ``.json.gz`` files and the like, one JSON object a line with the document under one key.

The hot path of reading. A block of whole lines is parsed at once, other keys are skipped unread, and no Python code
runs for a document; only a block with something wrong or unusual in it is read line by line. Lines of white space alone
are no documents, as for other JSON lines tools, but count as lines.

Memory, besides the blocks handed on: below 20 MiB, whatever the size of the file (below 120 MiB for Zstandard data that
unpacks to thousands of times its size, and besides its window of at most 128 MiB); and for a long line, while it is
parsed, 2 times its bytes if it is ASCII, 3 with escapes, 6 with characters beyond the basic plane. A line longer than
``max_document_bytes`` is thrown away as it is read.
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
from numpy.typing import NDArray

from pause_megatron.corpus.blocks import Block, BlockBuilder, ReadOptions, too_long
from pause_megatron.corpus.lines import OverlongLine, line_blocks
from pause_megatron.corpus.unpack import Unpacked
from pause_megatron.errors import UserError

JSON_SUFFIXES = (".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst", ".json", ".jsonl")

_BLANK = re.compile(rb"[ \t\r]*")
_PARSING_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
PARSED_BYTES = 512 << 10
"""Bytes of lines parsed at once: they stay in the processor's caches, and memory is not given back between them."""


@dataclass(frozen=True, kw_only=True)
class JsonLinesSource:
    """One file of JSON lines."""

    name: str
    location: str
    size_bytes: int

    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the file's documents in order.

        Raises :class:`UserError` when the file cannot be opened and, unless errors are to be
        skipped, at the first line that is no JSON object with a string under ``text_key``, is not UTF-8 or is too long,
        and where gzip or Zstandard data is damaged or cut short.
        """
        parsed_bytes = min(options.block_bytes, PARSED_BYTES)
        unpacked = Unpacked(Path(self.location), parsed_bytes)
        expected = f'one JSON object a line with a string "{options.text_key}"'
        builder = BlockBuilder(self.location, "line", expected, options)
        parser = _LineParser(options, builder)
        for block in line_blocks(unpacked, parsed_bytes, options.max_document_bytes):
            if isinstance(block, OverlongLine):
                parser.reject_overlong(block)
            else:
                if not parser.parse(block):
                    parser.parse_each(block, cut=unpacked.damage is not None)
                block.clear()  # a long line must not be there any longer than its text needs it
            yield from builder.full_blocks()
        if unpacked.damage is not None:
            builder.reject_rest(unpacked.damage)
        yield from builder.last_block()


class _LineParser:
    """Parses blocks of lines into a :class:`BlockBuilder`."""

    def __init__(self, options: ReadOptions, builder: BlockBuilder) -> None:
        self._decoder = _decoder(options.text_key)
        self._max_line_bytes = options.max_document_bytes
        self._builder = builder

    def parse(self, block: bytearray) -> bool:
        """Read all lines of ``block`` at once; False, and nothing read, when they have to be looked at one by one."""
        newlines = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
        if len(block) > self._max_line_bytes and _longest_line(newlines, len(block)) > self._max_line_bytes:
            return False
        try:
            records = self._decoder.decode_lines(block)
        except _PARSING_ERRORS:
            return False
        lines = len(newlines) + (not block.endswith(b"\n"))
        if records and not (len(records) == lines and _one_object_a_line(block, newlines)):
            return False
        self._builder.texts += [record.text for record in records]
        self._builder.record += lines
        self._builder.read_bytes += len(block)
        return True

    def parse_each(self, block: bytearray, *, cut: bool) -> None:
        """Read the lines of ``block`` one by one.

        ``cut``: the file is known to be damaged behind ``block``, which explains a last line without a newline.
        """
        start = 0
        while start < len(block):
            end = block.find(b"\n", start)
            end = len(block) if end < 0 else end
            self._builder.record += 1
            if reason := self._parse_line(block, start, end):
                if cut and end == len(block):
                    self._builder.record -= 1
                else:
                    self._builder.reject(reason)
            start = end + 1
        self._builder.read_bytes += len(block)

    def _parse_line(self, block: bytearray, start: int, end: int) -> str | None:
        """Take the document of one line, if it is not blank; returns what is wrong with it."""
        if end - start > self._max_line_bytes:
            return too_long(end - start, self._max_line_bytes)
        if _BLANK.fullmatch(block, start, end):
            return None
        try:
            self._builder.texts.append(self._decoder.decode(memoryview(block)[start:end]).text)
        except msgspec.ValidationError as error:
            return str(error)
        except msgspec.DecodeError as error:
            return f"not valid JSON ({error})"
        except UnicodeDecodeError as error:
            return f"not valid UTF-8 ({error.reason})"
        except RecursionError:
            return "nested too deeply"
        return None

    def reject_overlong(self, line: OverlongLine) -> None:
        """Report a line that was thrown away."""
        self._builder.record += 1
        self._builder.read_bytes += line.read_bytes
        self._builder.reject(too_long(line.length, self._max_line_bytes))


def _longest_line(newlines: NDArray[np.int64], block_bytes: int) -> int:
    ends = np.append(newlines, block_bytes)
    return int(np.diff(ends, prepend=-1).max()) - 1


def _one_object_a_line(block: bytearray, newlines: NDArray[np.int64]) -> bool:
    """Whether each of the newlines stands between two objects, given that ``block`` could be parsed.

    It does where the characters beside it are ``}`` and ``{``, which never are neighbours within an object. The parser
    itself would take an object that goes on in the next line, or two in one; what is right must not depend on blocks.
    """
    if block.startswith(b"\n"):
        return False
    characters = np.frombuffer(block, dtype=np.uint8)
    inner = newlines[:-1] if block.endswith(b"\n") else newlines
    return bool((characters[newlines - 1] == ord("}")).all() and (characters[inner + 1] == ord("{")).all())


@lru_cache(maxsize=8)
def _decoder(text_key: str) -> msgspec.json.Decoder[Any]:
    try:
        record = msgspec.defstruct("Record", [("text", str)], gc=False, rename={"text": text_key})
    except ValueError as error:
        raise UserError(
            f"--text-key {text_key!r}: keys with quotes, backslashes or control characters are not read; rename it"
        ) from error
    return msgspec.json.Decoder(record)
