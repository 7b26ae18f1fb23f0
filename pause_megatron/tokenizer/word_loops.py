"""Compiled loops of :class:`~pause_megatron.tokenizer.word_table.WordTable`; importing this module needs numba."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pause_megatron.compiled_loops import compiled
from pause_megatron.tokenizer.word_table import LEFT_OUT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pause_megatron.tokenizer.word_table import Places

_BYTE, _KEY_BITS, _HALF, _USED = np.uint64(8), np.uint64(64), np.uint64(32), np.uint64(1)
_INDEX, _AGAIN = np.uint64((1 << 32) - 1), np.uint64(1 << 32)  # a word's index, and whether it was found again
_MARK = (0xE2, 0x96, 0x81)  # U+2581


@compiled
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


@compiled
def _is_word(words: NDArray[np.uint8], first: int, last: int, text: NDArray[np.uint8], begin: int) -> bool:
    """Whether ``text`` has the bytes ``words[first:last]`` at ``begin``."""
    for offset in range(last - first):  # noqa: SIM110 - a loop that numba compiles
        if words[first + offset] != text[begin + offset]:
            return False
    return True


@compiled
def look_up(
    text: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    places: Places,
    longest: int,
    table: tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.int64], np.uint64],
    count: int,
    found: NDArray[np.int32],
    words_per_text: NDArray[np.int64],
) -> tuple[int, int]:
    """Cut texts into words, write the index of each word to ``found``, and return their number.

    ``longest`` is the most bytes of a word. ``table`` has the arrays of a
    :class:`~pause_megatron.tokenizer.word_table.WordTable` of ``count`` words, to which new ones are added; also
    returns the new ``count``. A text gets ``LEFT_OUT`` words if the table cannot have one of them, or is full.
    """
    slots, words, ends, factor = table
    shift = _shift(len(slots))
    total = 0
    for index in range(len(bounds) - 1):
        begin, end, before = bounds[index], bounds[index + 1], total
        while begin < end:
            stop, code, usable = _read_word(text, begin, end, places, factor)
            if not usable or stop - begin > longest:
                break
            slot = np.int64(code >> shift)
            while slots[slot, 0] != 0:
                entry = np.int64(slots[slot, 1] & _INDEX)
                fits = ends[entry + 1] - ends[entry] == stop - begin
                if slots[slot, 0] == code and fits and _is_word(words, ends[entry], ends[entry + 1], text, begin):
                    break
                slot = (slot + 1) & (len(slots) - 1)
            if slots[slot, 0] != 0:
                slots[slot, 1] |= _AGAIN
            elif count + 1 < len(ends) and ends[count] + stop - begin <= len(words):
                slots[slot, 0], slots[slot, 1] = code, count
                ends[count + 1] = ends[count] + stop - begin
                words[ends[count] : ends[count + 1]] = text[begin:stop]
                count += 1
            else:
                break
            found[total] = slots[slot, 1] & _INDEX
            total += 1
            begin = stop
        words_per_text[index] = total - before
        if begin < end:
            words_per_text[index], total = LEFT_OUT, before
    return total, count


@compiled
def _shift(slots: int) -> np.uint64:
    """Number of bits by which a hash is shifted to be the index of one of ``slots``, a power of two."""
    bits = np.uint64(0)
    while np.uint64(slots) >> bits > _USED:
        bits += _USED
    return _KEY_BITS - bits


@compiled
def gather(
    found: NDArray[np.int32],
    words_per_text: NDArray[np.int64],
    ids: NDArray[np.int32],
    id_ends: NDArray[np.int64],
    costs: NDArray[np.float64],
    largest_cost: float,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids of the words with the indices ``found``, and their number per text.

    A text with a higher cost than ``largest_cost`` gets ``LEFT_OUT`` words and no ids.
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
            at, words_per_text[index] = first, LEFT_OUT
        lengths[index] = at - first
    return gathered[:at], lengths


@compiled
def _move(array: NDArray[Any], first: int, last: int, place: int) -> int:
    """Copy ``array[first:last]`` to ``place``, which is not after ``first``; returns the place after the copy."""
    for offset in range(last - first):
        array[place + offset] = array[first + offset]
    return place + last - first


@compiled
def forget_rare_words(
    slots: NDArray[np.uint64],
    words: NDArray[np.uint8],
    word_ends: NDArray[np.int64],
    ids: NDArray[np.int32],
    id_ends: NDArray[np.int64],
    costs: NDArray[np.float64],
    count: int,
) -> int:
    """Keep the words that were found again since the last call, but at most half of the ``count``; returns how many."""
    codes = np.zeros(count, dtype=np.uint64)  # hash of each word that was found again
    for index in range(len(slots)):
        if slots[index, 1] & _AGAIN:
            codes[slots[index, 1] & _INDEX] = slots[index, 0]
    slots[:] = 0
    shift = _shift(len(slots))
    kept = 0
    for entry in range(count):
        if codes[entry] == 0 or kept >= count // 2:
            continue
        slot = np.int64(codes[entry] >> shift)
        while slots[slot, 0] != 0:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot, 0], slots[slot, 1] = codes[entry], kept
        costs[kept] = costs[entry]
        # The place is never after what is copied. The end of the entry is read before it can be overwritten.
        first, last = word_ends[entry], word_ends[entry + 1]
        first_id, last_id = id_ends[entry], id_ends[entry + 1]
        word_ends[kept + 1] = _move(words, first, last, word_ends[kept])
        id_ends[kept + 1] = _move(ids, first_id, last_id, id_ends[kept])
        kept += 1
    return kept
