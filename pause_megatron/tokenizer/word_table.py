"""Hash table from the words of a text to token ids.

Memory is bounded: a table that is nearly full forgets the words that it has met only once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pause_megatron.optional_packages import packages_needed_by

if TYPE_CHECKING:
    from numpy.typing import NDArray

    EncodeWords = Callable[[list[bytes]], tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]]

MAX_WORDS = 1 << 18
"""Words of a full table. On 117 MB of English, twice as many made it no faster."""
MAX_WORD_BYTES, MAX_IDS = 16 * MAX_WORDS, 6 * MAX_WORDS
"""Bytes and ids of the words of a full table, more than their mean in text of any kind."""
LEFT_OUT = -1
"""Number of words of a text that the table cannot encode."""

_WORDS_AT_ONCE = 1 << 14
"""New words that are encoded together; it bounds the memory of their lists."""


class Places(NamedTuple):
    """The places between two bytes at which a word begins."""

    class_of: NDArray[np.uint8]
    """Class of each byte, 0 to 7, shape ``[256]``."""
    is_place: NDArray[np.bool_]
    """Whether a word begins at a byte of class ``b`` after one of class ``a``: at ``8 * a + b``, shape ``[64]``."""
    needs_ascii_after: NDArray[np.bool_]
    """Classes of bytes that begin a word only if an ASCII character, or the end of the text, follows; shape ``[8]``."""


class WordTable:
    """Token ids of words, which ``encode`` gives when they first occur. ``encoded_words`` is their number until now.

    Words and their ids are in two arrays, in the order of their first occurrence; word ``i`` has the bytes from
    ``_word_ends[i]`` to ``_word_ends[i + 1]``. A slot of the hash table holds the hash and the index of a word, and at
    most half of the slots are in use. The arrays have their final size from the start, about 22 MB.
    """

    def __init__(self, places: Places, longest: int, encode: EncodeWords) -> None:
        """``longest`` is in bytes. ``encode`` returns the ids of words in a row, their numbers per word, and costs.

        Raises :class:`~pause_megatron.errors.UserError` if numba, which compiles the loops, is not installed.
        """
        with packages_needed_by("--encoder word-table"):
            from pause_megatron.tokenizer import word_loops

        self._loops = word_loops
        self._places, self._longest, self._encode = places, longest, encode
        self._factor = np.uint64(secrets.randbits(64) | 1)  # random, so that no text can be made of equal hashes
        self.encoded_words = 0
        self._count = 0
        self._slots = np.zeros((2 * MAX_WORDS, 2), dtype=np.uint64)
        self._words = np.empty(MAX_WORD_BYTES, dtype=np.uint8)
        self._word_ends = np.zeros(MAX_WORDS + 1, dtype=np.int64)
        self._ids = np.empty(MAX_IDS, dtype=np.int32)
        self._id_ends = np.zeros(MAX_WORDS + 1, dtype=np.int64)
        self._costs = np.zeros(MAX_WORDS, dtype=np.float64)

    def __len__(self) -> int:
        """Number of words in the table."""
        return self._count

    def encode(
        self, text: bytes, bounds: NDArray[np.int64], largest_cost: float
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Encode the texts that end at ``bounds[1:]`` in ``text``; ``bounds`` begins with 0.

        Returns the ids in a row, shape ``[ids]``, their number per text, and the number of words per text, both of
        shape ``[texts]``. A text has :data:`LEFT_OUT` words and no ids if it has a zero byte, U+2581 or a word that is
        too long, if the costs of its words exceed ``largest_cost``, or if the table is full before its end.
        """
        sizes = (self._count, int(self._word_ends[self._count]), int(self._id_ends[self._count]))
        if any(8 * size > 7 * most for size, most in zip(sizes, (MAX_WORDS, MAX_WORD_BYTES, MAX_IDS), strict=True)):
            ragged = (self._words, self._word_ends, self._ids, self._id_ends)
            self._count = self._loops.forget_rare_words(self._slots, *ragged, self._costs, self._count)
        known, characters = self._count, np.frombuffer(text, dtype=np.uint8)
        found = np.empty(len(text), dtype=np.int32)  # index of each word; the system gives memory for the used part
        words_per_text = np.empty(len(bounds) - 1, dtype=np.int64)
        table = (self._slots, self._words, self._word_ends, self._factor)
        total, self._count = self._loops.look_up(
            characters, bounds, self._places, self._longest, table, self._count, found, words_per_text
        )
        while known < self._count:
            known = self._add(known, min(known + _WORDS_AT_ONCE, self._count))
        arrays = (self._ids, self._id_ends, self._costs)
        ids, lengths = self._loops.gather(found[:total], words_per_text, *arrays, largest_cost)
        return ids, lengths, words_per_text

    def _add(self, first: int, last: int) -> int:
        """Encode the words from index ``first`` to ``last``; returns ``last``."""
        ends = self._word_ends[first : last + 1].tolist()
        data = self._words[ends[0] : ends[-1]].tobytes()
        ids, sizes, costs = self._encode([data[a - ends[0] : b - ends[0]] for a, b in pairwise(ends)])
        self.encoded_words += last - first
        place = int(self._id_ends[first])
        if place + len(ids) > len(self._ids):
            room = np.empty(max(len(ids), len(self._ids)), dtype=np.int32)
            self._ids = np.concatenate([self._ids[:place], room])
        self._ids[place : place + len(ids)] = ids
        self._id_ends[first + 1 : last + 1] = place + np.cumsum(sizes)
        self._costs[first:last] = costs
        return last
