"""Pieces of a file to blocks of whole lines, however long the lines are.

Second step of reading JSON lines. Time is linear in the input, whatever the length of its lines, and no more is held
than a block and one line of bounded length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class OverlongLine:
    """A line that was longer than allowed, and thrown away as it was read."""

    length: int
    """Its bytes, without the newline."""
    read_bytes: int
    """Its bytes, with the newline where it has one."""


def line_blocks(pieces: Iterable[bytes], block_bytes: int, max_line_bytes: int) -> Iterator[bytearray | OverlongLine]:
    """String ``pieces`` together and cut them after newlines, at least ``block_bytes`` bytes at a time.

    Only the last block may end without a newline. A line longer than ``max_line_bytes`` may still come through when it
    is longer by less than a piece. Whoever takes a block may clear it, to free its memory before asking for the next.
    """
    block = bytearray()  # grown in place, so that a long line is never there twice
    whole = 0  # bytes of it that are whole lines
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
            block, whole = bytearray(memoryview(piece)[end:]), 0
        else:
            whole = len(block) + end if end else whole
            block += piece
        if len(block) - whole > max_line_bytes:
            overlong = len(block) - whole
            if whole:
                del block[whole:]
                yield block
            block, whole = bytearray(), 0
    if overlong:
        yield OverlongLine(overlong, overlong)
    elif block:
        yield block
