"""Sources of JSON lines, such as C4's ``.json.gz`` files: one JSON object per line, with the document under one key.

This is the hot path of reading. A block of complete lines is parsed at once, other keys are skipped without parsing,
and no Python code runs per document. Only a block with an error or an unusual line is read line by line. Lines of white
space contain no document, but count as lines. A byte order mark at the beginning of a file is ignored.

Memory, in addition to the blocks that are returned: below 20 MiB for any size of file (below 250 MiB for Zstandard data
that expands thousands of times), and 2 to 6 times the bytes of a long line while it is parsed. A line longer than
``max_document_bytes`` is discarded while it is read.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pause_megatron.corpus.blocks import Block, BlockBuilder, ReadOptions, Source, too_long
from pause_megatron.corpus.unpack import Unpacked
from pause_megatron.errors import UserError

JSON_SUFFIXES = (".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst", ".json", ".jsonl")

_BLANK = re.compile(rb"[ \t\r]*")
_PARSING_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
PARSED_BYTES = 512 << 10
"""Bytes of lines parsed at once; few enough to stay in the processor's caches."""


class JsonLinesSource(Source):
    """One file of JSON lines."""

    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the documents in order; see :class:`Source`."""
        parsed_bytes = min(options.block_bytes, PARSED_BYTES)
        unpacked = Unpacked(self.location, parsed_bytes)
        expected = f'one JSON object per line with a string "{options.text_key}"'
        builder = BlockBuilder(self.location, "line", expected, options)
        parser = _LineParser(options, builder)
        for block in line_blocks(unpacked, parsed_bytes, options.max_document_bytes):
            if isinstance(block, OverlongLine):
                builder.record += 1
                builder.read_bytes += block.read_bytes
                builder.reject(too_long(block.length, options.max_document_bytes))
            else:
                if not builder.record and block.startswith(codecs.BOM_UTF8):
                    builder.read_bytes += len(codecs.BOM_UTF8)
                    del block[: len(codecs.BOM_UTF8)]
                if not parser.parse(block):
                    parser.parse_each(block, cut=unpacked.damage is not None)
                block.clear()  # frees a long line before the next one is read
            yield from builder.full_blocks()
        if unpacked.damage is not None:
            builder.reject_rest(unpacked.damage)
        yield from builder.last_block()


class _LineParser:
    def __init__(self, options: ReadOptions, builder: BlockBuilder) -> None:
        self._decoder = _decoder(options.text_key)
        self._max_line_bytes = options.max_document_bytes
        self._builder = builder

    def parse(self, block: bytearray) -> bool:
        """Read all lines of ``block`` at once; returns False, without reading any, if :meth:`parse_each` must do it."""
        newlines = np.fromiter(_newlines(block), dtype=np.int64)
        if len(block) > self._max_line_bytes:
            ends = np.append(newlines, len(block))
            if np.diff(ends, prepend=-1).max() - 1 > self._max_line_bytes:
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

        ``cut``: the file is damaged after ``block``, so its last line can be incomplete and is not reported.
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
        """Add the document of one line unless it is blank, or return the reason why it cannot be read."""
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


@dataclass(frozen=True)
class OverlongLine:
    """A line above the allowed length, which was discarded while it was read."""

    length: int
    """Bytes without the newline."""
    read_bytes: int
    """Bytes with the newline, if there is one."""


def line_blocks(pieces: Iterable[bytes], block_bytes: int, max_line_bytes: int) -> Iterator[bytearray | OverlongLine]:
    """Join ``pieces`` and divide them after newlines into blocks of at least ``block_bytes`` bytes.

    Only the last block can end without a newline. Lines that exceed ``max_line_bytes`` by less than a piece can pass.
    The caller may clear a block to free its memory before it asks for the next one. Time is linear in the input for
    lines of any length, and memory is bounded by one block and one line.
    """
    block = bytearray()  # grows in place, so that a long line is in memory only once
    complete = 0  # bytes of the complete lines in it
    overlong = 0
    for piece in pieces:
        if overlong:
            end = piece.find(b"\n")
            if end < 0:
                overlong += len(piece)
                continue
            yield OverlongLine(overlong + end, overlong + end + 1)
            overlong = 0
            piece = piece[end + 1 :]
        end = piece.rfind(b"\n") + 1
        if end and len(block) + end >= block_bytes:
            block += memoryview(piece)[:end]
            yield block
            block, complete = bytearray(memoryview(piece)[end:]), 0
        else:
            complete = len(block) + end if end else complete
            block += piece
        if len(block) - complete > max_line_bytes:
            overlong = len(block) - complete
            if complete:
                del block[complete:]
                yield block
            block, complete = bytearray(), 0
    if overlong:
        yield OverlongLine(overlong, overlong)
    elif block:
        yield block


def _newlines(block: bytearray) -> Iterator[int]:
    """Yield the places of newlines, in half the time that comparing every byte takes."""
    place = block.find(b"\n")
    while place >= 0:
        yield place
        place = block.find(b"\n", place + 1)


def _one_object_a_line(block: bytearray, newlines: NDArray[np.int64]) -> bool:
    """Whether every newline of a parsed ``block`` is between two objects.

    That is the case if ``}`` precedes and ``{`` follows it, which cannot happen within an object. The parser itself
    accepts an object across two lines, or two objects on one line; errors must not depend on the division into blocks.
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
            f"--text-key {text_key!r}: keys with quotes, backslashes or control characters are not supported; rename it"
        ) from error
    return msgspec.json.Decoder(record)
