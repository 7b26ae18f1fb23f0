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


def line_blocks(pieces: Iterable[bytes], block_bytes: int, max_line_bytes: int) -> Iterator[bytes | OverlongLine]:
    """String ``pieces`` together and cut them after newlines, at least ``block_bytes`` bytes at a time.

    Only the last block may end without a newline. A line longer than ``max_line_bytes`` may still come through when it
    is longer by less than a piece.
    """
    whole: list[bytes] = []  # ends with a newline
    begun: list[bytes] = []  # has none
    whole_bytes = begun_bytes = 0
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
        if end := piece.rfind(b"\n") + 1:
            whole += [*begun, piece[:end]]
            whole_bytes += begun_bytes + end
            begun, begun_bytes = [], 0
            piece = piece[end:]
        begun.append(piece)
        begun_bytes += len(piece)
        if whole and (whole_bytes >= block_bytes or begun_bytes > max_line_bytes):
            whole_bytes = 0
            yield _take(whole)
        if begun_bytes > max_line_bytes:
            overlong, begun, begun_bytes = begun_bytes, [], 0
    if overlong:
        yield OverlongLine(overlong, overlong)
    elif whole_bytes + begun_bytes:
        whole += begun
        begun.clear()
        yield _take(whole)


def _take(pieces: list[bytes]) -> bytes:
    """Join and forget: whoever waits at a ``yield`` must not hold a long line twice."""
    joined = b"".join(pieces)
    pieces.clear()
    return joined
