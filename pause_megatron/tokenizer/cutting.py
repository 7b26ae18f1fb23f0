"""Long texts are encoded in pieces, because the libraries need 40 and more bytes of memory for each byte of a text.

A cut changes no id where no token and no rule of normalisation can reach across it. The backends say at loading whether
their model is such that this holds *before a space between two word characters*, and which characters those are
(:data:`WORD_NEIGHBOURS`, :data:`ASCII_NEIGHBOURS`), or before a newline, too. A model for which it cannot be shown
encodes every text whole, and so does every model what has no such place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    EncodeBatch = Callable[[list[str]], tuple[NDArray[np.int32], NDArray[np.int64]]]

PIECE_CHARACTERS = 1 << 16
"""Texts longer than this are cut, at the first place after so many characters.

Few enough that rounded scores of a piece of ordinary text stay exact, see
:data:`pause_megatron.tokenizer.model_file.SCORE_STEP`; with others, a cut may tip the scales between equals."""

WORD_NEIGHBOURS = r"(?<=\w) (?=\w)"
"""Where to cut when the text reaches the model as it is."""
NEWLINES_IN_WORDS = r"(?<=[^\W_])\n(?=\w)"
"""Where to cut, too, when text is split into words first; behind punctuation a newline may belong to it."""
ASCII_NEIGHBOURS = r"(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])"
"""Where to cut when characters are normalised, which ASCII letters and digits do not take part in."""

_PIECES_AT_ONCE = 16
_PROBES = ("a b", "The end", "in 2024", "a\nb", "Two\nlines")


@dataclass(frozen=True)
class Cuts:
    """Where a tokenizer's texts can be cut, and how the piece behind a cut begins."""

    places: re.Pattern[str]
    """Matches what stands behind a cut."""
    drops_space: bool
    """Whether the space behind a cut is left out, because the tokenizer itself puts one before every text."""

    def pieces(self, text: str) -> Iterator[str]:
        """The pieces of ``text``, each to be encoded alone. Long ones remain where there is no place to cut."""
        start = 0
        while len(text) - start > PIECE_CHARACTERS:
            place = self.places.search(text, start + PIECE_CHARACTERS)
            if place is None:
                break
            yield text[start : place.start()]
            start = place.start() + self.drops_space
        yield text[start:]


def find_cuts(places: str, encode: Callable[[str], list[int]]) -> Cuts | None:
    """How to cut at ``places``, before which the model is known to have a boundary.

    It is found by trial whether the space is to be kept: a tokenizer may put one before every text itself. ``None``
    when neither is right.
    """
    pattern = re.compile(places)
    if _is_joint(pattern, encode, drops_space=False):
        return Cuts(pattern, drops_space=False)
    pattern = re.compile(places.removesuffix(f"|{NEWLINES_IN_WORDS}"))
    for drops_space in (False, True):
        if _is_joint(pattern, encode, drops_space):
            return Cuts(pattern, drops_space)
    return None


def _is_joint(pattern: re.Pattern[str], encode: Callable[[str], list[int]], drops_space: bool) -> bool:
    for text in _PROBES:
        for place in pattern.finditer(text):
            before, after = text[: place.start()], text[place.start() + drops_space :]
            if encode(text) != encode(before) + encode(after):
                return False
    return True


def encode_in_pieces(
    texts: list[str], cuts: Cuts | None, encode_batch: EncodeBatch
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """What ``encode_batch`` gives for ``texts``, without showing it a long one whole if that can be helped.

    Returns ids of shape ``[tokens]`` and lengths of shape ``[texts]``, as ``encode_batch`` does.
    """
    if cuts is None or not texts or max(map(len, texts)) <= PIECE_CHARACTERS:
        return encode_batch(texts)
    ids: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = []
    for is_long, group in groupby(texts, lambda text: len(text) > PIECE_CHARACTERS):
        if is_long:
            encoded = [_encode_long(text, cuts, encode_batch) for text in group]
            ids += encoded
            lengths.append(np.array([len(text_ids) for text_ids in encoded], dtype=np.int64))
        else:
            short_ids, short_lengths = encode_batch(list(group))
            ids.append(short_ids)
            lengths.append(short_lengths)
    return np.concatenate(ids), np.concatenate(lengths)


def _encode_long(text: str, cuts: Cuts, encode_batch: EncodeBatch) -> NDArray[np.int32]:
    pieces = cuts.pieces(text)
    parts = []
    while some := list(islice(pieces, _PIECES_AT_ONCE)):
        parts.append(encode_batch(some)[0])
    return np.concatenate(parts)
