"""Encoding of long texts in chunks, because the libraries need 40 or more bytes of memory per byte of text.

A cut changes no id if no token and no normalisation rule can reach across it. When a backend loads a model, it finds
out whether that holds before a space between two word characters, and before a newline. For example, ``the end`` may be
cut into ``the`` and `` end``. A model for which this is not certain encodes every text in one chunk.
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
"""Length of a chunk, in characters; it ends at the first possible cut after it. In chunks of ordinary text, sums of
rounded scores stay exact, see :data:`~pause_megatron.tokenizer.model_file.SCORE_STEP`."""

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
    """Cuts at ``places``, a pattern for characters at which a token must begin; None if cutting probes changes ids."""
    only_spaces = places.removesuffix(f"|{NEWLINES_IN_WORDS}")
    for pattern, drops_space in ((places, False), (only_spaces, False), (only_spaces, True)):
        cuts = Cuts(re.compile(pattern), drops_space)
        if _cuts_keep_ids(cuts, encode):
            return cuts
    return None


def _cuts_keep_ids(cuts: Cuts, encode: Callable[[str], list[int]]) -> bool:
    for text in _PROBES:
        for place in cuts.places.finditer(text):
            before, after = text[: place.start()], text[place.start() + cuts.drops_space :]
            if encode(text) != encode(before) + encode(after):
                return False
    return True


def encode_in_chunks(
    texts: list[str], cuts: Cuts | None, encode_batch: EncodeBatch
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Encode ``texts`` by ``encode_batch``, which gets long texts in chunks if ``cuts`` allows it, and no empty list.

    Returns ids of shape ``[tokens]`` and lengths of shape ``[texts]``, as ``encode_batch`` does.
    """
    if not texts:
        return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
    if cuts is None or max(map(len, texts)) <= CHUNK_CHARACTERS:
        return encode_batch(texts)
    encoded = []
    for is_long, group in groupby(texts, lambda text: len(text) > CHUNK_CHARACTERS):
        members = list(group)
        if is_long:
            encoded += [_encode_long(text, cuts, encode_batch) for text in members]
        else:
            encoded.append(encode_batch(members))
    ids, lengths = zip(*encoded, strict=True)
    return np.concatenate(ids), np.concatenate(lengths)


def replace_ids(
    ids: NDArray[np.int32],
    lengths: NDArray[np.int64],
    indices: list[int],
    replacements: tuple[NDArray[np.int32], NDArray[np.int64]],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Replace the ids of the texts with the given ``indices``, in order.

    ``ids`` and ``replacements`` are results of an ``encode_batch``, for all texts and for those with ``indices``. The
    time in Python is that of the replaced texts, since texts between them stay together.
    """
    new_ids, new_lengths = replacements
    ends, new_ends = np.cumsum(lengths).tolist(), np.cumsum(new_lengths).tolist()
    parts, place, new_place = [], 0, 0
    for index, new_end in zip(indices, new_ends, strict=True):
        start = ends[index - 1] if index else 0
        parts += [ids[place:start], new_ids[new_place:new_end]]
        place, new_place = ends[index], new_end
    lengths = lengths.copy()
    lengths[indices] = new_lengths
    return np.concatenate([*parts, ids[place:]]), lengths


def _encode_long(text: str, cuts: Cuts, encode_batch: EncodeBatch) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    chunks = cuts.chunks(text)
    batches = iter(lambda: list(islice(chunks, _CHUNKS_PER_BATCH)), [])
    ids = np.concatenate([encode_batch(batch)[0] for batch in batches])
    return ids, np.array([len(ids)], dtype=np.int64)
