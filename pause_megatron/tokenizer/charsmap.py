"""Reader of SentencePiece's compiled character replacements (``NormalizerSpec.precompiled_charsmap``).

The data is a length in bytes, a double-array trie of that length (Darts-clone) with the strings to replace, and the
strings that replace them. SentencePiece replaces the longest match at a position and continues after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HAS_VALUE, _WIDE_OFFSET, _LABEL = np.uint32(1 << 8), np.uint32(1 << 9), np.uint32(1 << 31 | 0xFF)
_BYTES = np.arange(1, 256, dtype=np.uint32)
_WHITE_SPACE = np.frombuffer(b"\t\n\v\f\r ", dtype=np.uint8)
_NODES_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class Replacements:
    """Properties of a set of character replacements."""

    join_ascii: bool = False
    """Whether a string to replace has white space before another character, or an ASCII character after another one. If
    not, no replacement reaches over the place between two ASCII characters."""
    change_ascii: bool = False
    """Whether a visible ASCII character is replaced."""
    make_space_marks: bool = False
    """Whether a replacement contains U+2581."""
    longest: int = 1
    """Characters of the longest replacement."""


def read_replacements(charsmap: bytes) -> Replacements:
    """Properties of the replacements ``charsmap``; raises :class:`ValueError` if the trie is incomplete."""
    size = int.from_bytes(charsmap[:4], "little")
    if not 0 < size <= len(charsmap) - 4 or size % 4:
        raise ValueError("precompiled_charsmap: incomplete")
    units = np.frombuffer(charsmap, dtype="<u4", count=size // 4, offset=4)
    replacements = charsmap[4 + size :].decode(errors="replace").split("\0")
    first, labels = _children(units, np.zeros(1, dtype=np.uint32))
    after_space, _ = _children(units, first[np.isin(labels, _WHITE_SPACE)])
    visible = first[(labels > ord(" ")) & (labels <= ord("~"))]
    return Replacements(
        join_ascii=len(after_space) > 0 or _has_ascii_below(units, first),
        change_ascii=bool((units[visible] & _HAS_VALUE).any()),
        make_space_marks=any("\u2581" in replacement for replacement in replacements),
        longest=max(map(len, replacements)),
    )


def _has_ascii_below(units: NDArray[np.uint32], nodes: NDArray[np.uint32]) -> bool:
    """Whether an ASCII character is anywhere below ``nodes``."""
    seen = np.zeros(len(units), dtype=bool)
    while len(nodes):
        seen[nodes] = True
        found = []
        for start in range(0, len(nodes), _NODES_AT_ONCE):
            children, labels = _children(units, nodes[start : start + _NODES_AT_ONCE])
            if (labels < 0x80).any():
                return True
            found.append(children)
        nodes = np.unique(np.concatenate(found))
        nodes = nodes[~seen[nodes]]
    return False


def _children(units: NDArray[np.uint32], nodes: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Children of all ``nodes`` and the bytes that lead to them, both of shape ``[children]``."""
    parents = units[nodes]
    offsets = (parents >> np.uint32(10)) << ((parents & _WIDE_OFFSET) >> np.uint32(6))
    places = (nodes ^ offsets)[:, None] ^ _BYTES  # [nodes, bytes]
    inside = places < len(units)
    is_child = inside & ((units[np.where(inside, places, 0)] & _LABEL) == _BYTES)
    return places[is_child], np.broadcast_to(_BYTES, places.shape)[is_child]
