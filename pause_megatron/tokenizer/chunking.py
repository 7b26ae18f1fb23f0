"""Encoding of long texts in chunks, because the libraries need 40 or more bytes of memory per byte of text.

A cut changes no id if no token and no normalisation rule can reach across it. When a backend loads a model, it finds
out whether that holds *before a space between two word characters* (and for which characters: :data:`WORD_NEIGHBOURS`
or :data:`ASCII_NEIGHBOURS`), and also before a newline. For example, ``the end`` may be cut into ``the`` and `` end``.
A model for which this is not certain encodes every text in one chunk, and so does every model for a text without
spaces.
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

CHUNK_CHARACTERS = 1 << 16
"""Length of a chunk, in characters; it ends at the first possible cut after it.

Small enough that sums of rounded scores stay exact within a chunk of ordinary text, see
:data:`pause_megatron.tokenizer.model_file.SCORE_STEP`. With unrounded scores, a cut can change the choice between two
nearly equal segmentations."""

WORD_NEIGHBOURS = r"(?<=\w) (?=\w)"
"""Cuts of a model that does not normalise text."""
NEWLINES_IN_WORDS = r"(?<=[^\W_])\n(?=\w)"
"""Further cuts of a model that splits text into words first. After punctuation, a newline can belong to it."""
ASCII_NEIGHBOURS = r"(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])"
"""Cuts of a model that normalises characters; normalisation leaves ASCII letters and digits alone."""

_CHUNKS_PER_BATCH = 16
_PROBES = ("a b", "The end", "in 2024", "a\nb", "Two\nlines")


@dataclass(frozen=True)
class Cuts:
    """Positions at which texts of one tokenizer can be cut."""

    places: re.Pattern[str]
    """Matches the character after a cut."""
    drops_space: bool
    """Whether the space after a cut is removed, because the tokenizer itself puts one before every text."""

    def chunks(self, text: str) -> Iterator[str]:
        """Yield the chunks of ``text``, to be encoded separately. A chunk without a possible cut can be long."""
        start = 0
        while len(text) - start > CHUNK_CHARACTERS:
            place = self.places.search(text, start + CHUNK_CHARACTERS)
            if place is None:
                break
            yield text[start : place.start()]
            start = place.start() + self.drops_space
        yield text[start:]


def find_cuts(places: str, encode: Callable[[str], list[int]]) -> Cuts | None:
    """Cuts at ``places``, a pattern for characters at which a token must begin; None if cutting there changes ids.

    Encodes probes to find out whether the space after a cut must be kept: some tokenizers put one before every text.
    """
    pattern = re.compile(places)
    if _cuts_keep_ids(pattern, encode, drops_space=False):
        return Cuts(pattern, drops_space=False)
    pattern = re.compile(places.removesuffix(f"|{NEWLINES_IN_WORDS}"))
    for drops_space in (False, True):
        if _cuts_keep_ids(pattern, encode, drops_space):
            return Cuts(pattern, drops_space)
    return None


def _cuts_keep_ids(pattern: re.Pattern[str], encode: Callable[[str], list[int]], drops_space: bool) -> bool:
    for text in _PROBES:
        for place in pattern.finditer(text):
            before, after = text[: place.start()], text[place.start() + drops_space :]
            if encode(text) != encode(before) + encode(after):
                return False
    return True


def encode_in_chunks(
    texts: list[str], cuts: Cuts | None, encode_batch: EncodeBatch
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Encode ``texts`` by ``encode_batch``, which gets long texts in chunks if ``cuts`` allows it.

    Returns ids of shape ``[tokens]`` and lengths of shape ``[texts]``, as ``encode_batch`` does.
    """
    if cuts is None or not texts or max(map(len, texts)) <= CHUNK_CHARACTERS:
        return encode_batch(texts)
    ids: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = []
    for is_long, group in groupby(texts, lambda text: len(text) > CHUNK_CHARACTERS):
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
    chunks = cuts.chunks(text)
    ids = []
    while batch := list(islice(chunks, _CHUNKS_PER_BATCH)):
        ids.append(encode_batch(batch)[0])
    return np.concatenate(ids)
