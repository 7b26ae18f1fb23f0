"""Compiled loops of :class:`~pause_megatron.tokenizer.word_table.WordTable`; importing this module needs numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pause_megatron.tokenizer.word_table import Places

Loop = TypeVar("Loop", bound=Callable[..., Any])

_BYTE, _KEY_BITS, _HALF, _USED = np.uint64(8), np.uint64(64), np.uint64(32), np.uint64(1)
_MARK = (0xE2, 0x96, 0x81)  # U+2581


def _compiled(function: Loop) -> Loop:
    """``function`` as machine code, which numba keeps on disk if this package's folder or its cache is writable."""
    try:
        return cast(Loop, njit(function, cache=True))
    except RuntimeError:
        return cast(Loop, njit(function))


@_compiled
def _read_word(
    text: NDArray[np.uint8], begin: int, end: int, places: Places, factor: np.uint64
) -> tuple[int, np.uint64, bool]:
    """End of the word at ``begin`` in a text that ends at ``end``, its hash, and whether the table can have it."""
    stop, code, key, bits, usable = begin, factor, np.uint64(0), np.uint64(0), True
    kind = places.class_of[text[begin]]
    while True:
        byte = text[stop]
        if byte == 0 or (byte == _MARK[0] and text[stop + 1] == _MARK[1] and text[stop + 2] == _MARK[2]):
            usable = False
        key |= np.uint64(byte) << bits
        bits += _BYTE
        if bits == _KEY_BITS:
            code = (code ^ key) * factor
            code, key, bits = code ^ (code >> _HALF), np.uint64(0), np.uint64(0)
        stop += 1
        if stop == end:
            break
        after = places.class_of[text[stop]]
        is_place = places.is_place[kind << 3 | after]
        if is_place and (not places.needs_ascii_after[after] or stop + 1 == end or text[stop + 1] < 0x80):
            break
        kind = after
    return stop, (code ^ key) * factor | _USED, usable


@_compiled
def _is_word(words: NDArray[np.uint8], first: int, last: int, text: NDArray[np.uint8], begin: int) -> bool:
    """Whether ``text`` has the bytes ``words[first:last]`` at ``begin``."""
    for offset in range(last - first):  # noqa: SIM110 - a loop that numba compiles
        if words[first + offset] != text[begin + offset]:
            return False
    return True


@_compiled
def look_up(
    text: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    first: int,
    places: Places,
    limits: tuple[int, int],
    table: tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.int64], np.uint64],
    count: int,
    found: NDArray[np.int32],
    total: int,
    words_per_text: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Cut the texts from ``first`` on into words, and write the index of each word to ``found`` from ``total`` on.

    ``limits`` are the bytes of the longest text and of the longest word. ``table`` has the arrays of a
    :class:`~pause_megatron.tokenizer.word_table.WordTable` of ``count`` words, to which new ones are added. Returns the
    number of texts that are done (not all, if the table may have too little room for the next one), and the new
    ``total`` and ``count``.
    """
    slots, words, ends, factor = table
    longest_text, longest_word = limits
    shift = _shift(len(slots))
    for index in range(first, len(bounds) - 1):
        begin, end, before = bounds[index], bounds[index + 1], total
        if end - begin > longest_text:
            words_per_text[index] = -1
            continue
        if 2 * (count + end - begin) > len(slots):
            return index, total, count
        while begin < end:
            stop, code, usable = _read_word(text, begin, end, places, factor)
            if not usable or stop - begin > longest_word:
                break
            slot = np.int64(code >> shift)
            while slots[slot, 0] != 0:
                entry = np.int64(slots[slot, 1])
                is_long = ends[entry + 1] - ends[entry] == stop - begin
                if slots[slot, 0] == code and is_long and _is_word(words, ends[entry], ends[entry + 1], text, begin):
                    break
                slot = (slot + 1) & (len(slots) - 1)
            if slots[slot, 0] == 0:
                slots[slot, 0], slots[slot, 1] = code, count
                ends[count + 1] = ends[count] + stop - begin
                words[ends[count] : ends[count + 1]] = text[begin:stop]
                count += 1
            found[total] = slots[slot, 1]
            total += 1
            begin = stop
        words_per_text[index] = total - before
        if begin < end:  # the text has a word that the table cannot have
            words_per_text[index], total = -1, before
    return len(bounds) - 1, total, count


@_compiled
def _shift(slots: int) -> np.uint64:
    """Number of bits by which a hash is shifted to be the index of one of ``slots``, a power of two."""
    bits = np.uint64(0)
    while np.uint64(slots) >> bits > _USED:
        bits += _USED
    return _KEY_BITS - bits


@_compiled
def gather(
    found: NDArray[np.int32],
    words_per_text: NDArray[np.int64],
    ids: NDArray[np.int32],
    id_ends: NDArray[np.int64],
    costs: NDArray[np.float64],
    largest_cost: float,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids of the words with the indices ``found``, and their number per text.

    A text with a higher cost than ``largest_cost`` gets -1 words and no ids.
    """
    total = 0
    for entry in found:
        total += id_ends[entry + 1] - id_ends[entry]
    gathered, lengths = np.empty(total, dtype=np.int32), np.zeros(len(words_per_text), dtype=np.int64)
    at = word = 0
    for index in range(len(words_per_text)):
        first, cost = at, 0.0
        for _ in range(words_per_text[index]):
            entry = found[word]
            word += 1
            cost += costs[entry]
            for place in range(id_ends[entry], id_ends[entry + 1]):
                gathered[at] = ids[place]
                at += 1
        if cost > largest_cost:
            at, words_per_text[index] = first, -1
        lengths[index] = at - first
    return gathered[:at], lengths


@_compiled
def copy_slots(old: NDArray[np.uint64], slots: NDArray[np.uint64]) -> None:
    """Copy the used slots of ``old`` to ``slots``, a larger table."""
    shift = _shift(len(slots))
    for index in range(len(old)):
        if old[index, 0] != 0:
            slot = np.int64(old[index, 0] >> shift)
            while slots[slot, 0] != 0:
                slot = (slot + 1) & (len(slots) - 1)
            slots[slot] = old[index]
