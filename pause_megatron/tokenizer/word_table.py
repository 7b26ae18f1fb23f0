"""Hash table from the words of a text to token ids.

Memory is bounded: a full table starts again without words.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pause_megatron.optional_packages import packages_needed_by

if TYPE_CHECKING:
    from numpy.typing import NDArray

    EncodeWords = Callable[[list[bytes]], tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]]

MAX_WORDS = 1 << 20
"""Words after which the table starts again. With their ids they take about 130 MB."""
MAX_WORD_BYTES = 1 << 24
"""Bytes of all words after which it starts again."""
MAX_IDS = 1 << 23
"""Ids of all words after which it starts again: 32 MB."""
LONGEST_TEXT = 1 << 20
"""Bytes of the longest text that the table encodes, because it must have room for as many new words."""
LEFT_OUT = -1
"""Number of words of a text that the table cannot encode."""

_FEWEST_SLOTS = 1 << 17


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
    most half of the slots are in use.
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
        self._clear()

    def _clear(self) -> None:
        self._count: int = 0
        self._slots: NDArray[np.uint64] = np.zeros((_FEWEST_SLOTS, 2), dtype=np.uint64)
        self._words: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._word_ends: NDArray[np.int64] = np.zeros(_FEWEST_SLOTS // 2 + 1, dtype=np.int64)
        self._ids: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._id_ends: NDArray[np.int64] = np.zeros_like(self._word_ends)
        self._costs: NDArray[np.float64] = np.zeros_like(self._word_ends, dtype=np.float64)

    def __len__(self) -> int:
        """Number of words in the table."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        arrays = (self._slots, self._words, self._word_ends, self._ids, self._id_ends, self._costs)
        return sum(array.nbytes for array in arrays)

    def encode(
        self, text: bytes, bounds: NDArray[np.int64], largest_cost: float
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Encode the texts that end at ``bounds[1:]`` in ``text``; ``bounds`` begins with 0.

        Returns the ids in a row, shape ``[ids]``, their number per text, and the number of words per text, both of
        shape ``[texts]``. A text has :data:`LEFT_OUT` words and no ids if it has a zero byte, U+2581 or a word that is
        too long, if it is too long itself, or if the costs of its words exceed ``largest_cost``.
        """
        sizes = (self._count, self._word_ends[self._count], self._id_ends[self._count])
        if any(size >= limit for size, limit in zip(sizes, (MAX_WORDS, MAX_WORD_BYTES, MAX_IDS), strict=True)):
            self._clear()
        characters = np.frombuffer(text, dtype=np.uint8)
        self._words = _with_room(self._words, int(self._word_ends[self._count]) + len(text))
        found = np.empty(len(text), dtype=np.int32)  # index of each word; the system gives memory for the used part
        words = np.empty(len(bounds) - 1, dtype=np.int64)
        limits = (LONGEST_TEXT, self._longest)
        known, done, total = self._count, 0, 0
        while done < len(words):
            self._make_room(min(int(bounds[done + 1] - bounds[done]), LONGEST_TEXT))
            table = (self._slots, self._words, self._word_ends, self._factor)
            done, total, self._count = self._loops.look_up(
                characters, bounds, done, self._places, limits, table, self._count, found, total, words
            )
        self._add(known)
        ids, lengths = self._loops.gather(found[:total], words, self._ids, self._id_ends, self._costs, largest_cost)
        return ids, lengths, words

    def _make_room(self, more: int) -> None:
        """Have room for ``more`` new words."""
        slots = len(self._slots)
        while 2 * (self._count + more) > slots:
            slots *= 2
        if slots > len(self._slots):
            old, self._slots = self._slots, np.zeros((slots, 2), dtype=np.uint64)
            self._loops.copy_slots(old, self._slots)
            self._word_ends, self._id_ends, self._costs = (
                _with_room(array, slots // 2 + 1) for array in (self._word_ends, self._id_ends, self._costs)
            )

    def _add(self, known: int) -> None:
        """Encode the words from index ``known`` on."""
        if known == self._count:
            return
        ends = self._word_ends[known : self._count + 1].tolist()
        data = self._words[ends[0] : ends[-1]].tobytes()
        words = [data[start - ends[0] : end - ends[0]] for start, end in pairwise(ends)]
        self.encoded_words += len(words)
        ids, sizes, costs = self._encode(words)
        first = int(self._id_ends[known])
        self._ids = _with_room(self._ids, first + len(ids))
        self._ids[first : first + len(ids)] = ids
        self._id_ends[known + 1 : self._count + 1] = first + np.cumsum(sizes)
        self._costs[known : self._count] = costs


def _with_room(array: NDArray[Any], size: int) -> NDArray[Any]:
    """``array`` itself, or a larger copy with place for ``size`` elements."""
    if size <= len(array):
        return array
    larger = np.empty(max(size, 2 * len(array)), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
