"""Fast encoder of SentencePiece unigram models: encodes each distinct word only once.

SentencePiece chooses the segmentation of a text with the highest sum of scores. If no piece and no normalisation
reaches from one word into the next, it consists of the best segmentation of each word. The ids are equal for these
reasons:

- **Words are separate.** See :mod:`~pause_megatron.tokenizer.word_boundaries`. A model that normalises texts must put a
  space before every text and fold spaces, and replace no string that has a place between words in it. A model that does
  not normalise must leave spaces alone.
- **Sums are exact.** SentencePiece adds scores in float32 from the start of the text. If sums were rounded, the text
  before a word could change which of two nearly equal segmentations wins. Multiples of 1/64 have exact sums up to
  2**18, see :data:`~pause_megatron.tokenizer.model_file.SCORE_STEP`; a text whose sums can be larger goes to
  SentencePiece. Models with unrounded scores are refused.
- **Ties do not depend on other words.** Of two segmentations with equal sums, SentencePiece takes the one with the
  longer last token.
- **There are no special cases.** Models with user-defined pieces, which take precedence over scores, are refused.
  Unknown characters in a row become one token, but not across words: one of the two characters is always a piece, or
  is spelled in bytes. Texts with U+2581, which stands for a space, with a zero byte, or with a very long word go to
  SentencePiece.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.charsmap import Replacements, read_replacements
from pause_megatron.tokenizer.chunking import encode_in_chunks, replace_ids
from pause_megatron.tokenizer.model_file import LARGEST_EXACT_SUM, PieceType
from pause_megatron.tokenizer.pause_tokenizer import PauseTokenizer
from pause_megatron.tokenizer.sentencepiece_backend import SPACE, SentencePieceBackend
from pause_megatron.tokenizer.word_boundaries import WordBoundaries
from pause_megatron.tokenizer.word_table import LEFT_OUT, WordTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_WORD = 255
"""Bytes of the longest word that is looked up."""

LARGEST_NEW_SHARE = 0.25
"""Share of new words above which SentencePiece is faster; in the first megabytes of English it is about 0.05."""
FEWEST_WORDS = 1 << 17
"""Words of a batch whose share of new words counts."""

_SKIPPED_BATCHES = 16  # as much text, in multiples of the batch with many new words, goes to SentencePiece
_UNKNOWN_PENALTY = 10.0  # SentencePiece scores an unknown character this much below the lowest score of a piece
_LARGEST_SUM_OF_WORD = LARGEST_EXACT_SUM / 4
_NO_IDS = (np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64))


class UnsupportedModelError(UserError):
    """A tokenizer that is not known to give the ids of its words."""


class WordEncoder:
    """Gives the ids of ``tokenizer``, which must be a SentencePiece unigram model, in less than half the time."""

    encoder_name = "word-table"

    def __init__(self, tokenizer: PauseTokenizer) -> None:
        """Raises :class:`UnsupportedModelError` if encoding word by word is not known to be equal."""
        backend = tokenizer.backend
        reason: str | None = "which is not a SentencePiece model"
        if isinstance(backend, SentencePieceBackend):
            charsmap = backend.settings.precompiled_charsmap
            replacements = read_replacements(charsmap) if charsmap else Replacements()
            reason = _reason_against(backend, replacements)
        if reason or not isinstance(backend, SentencePieceBackend):
            raise UnsupportedModelError(
                f"encoder word-table: {tokenizer.path}, {reason}, is not supported; use --encoder reference"
            )
        self._backend = backend
        self._keeps_ascii = not replacements.change_ascii
        boundaries = WordBoundaries(backend, changes_ascii=replacements.change_ascii)
        self._contexts = boundaries.contexts
        self._context_sizes = np.array([len(backend.encode(text.decode())) for text in self._contexts])
        # If spaces are folded, a space before a text changes nothing, and its first word is like any other
        self._before_text = b" " if backend.settings.remove_extra_whitespaces else b""
        self._begins_word = np.array([piece.startswith(SPACE) for piece in backend.pieces])
        self._largest_cost = _largest_cost(backend)
        self._cost_per_byte = self._largest_cost * replacements.longest
        self._costs = _costs(backend, self._largest_cost)
        longest = min(LONGEST_WORD, int(_LARGEST_SUM_OF_WORD / self._cost_per_byte))
        self._table = WordTable(boundaries.places, longest, self._encode_words)
        self._skipped_bytes = 0  # of the next texts, which go to SentencePiece

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all ``texts`` in a row, shape ``[tokens]``, and the number of ids per text, shape ``[texts]``."""
        return encode_in_chunks(texts, self._backend.cuts, self._encode_batch)

    def _encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        encoded = [self._before_text + text.encode() for text in texts]
        joined = b"".join(encoded)
        if self._skipped_bytes > 0:
            self._skipped_bytes -= len(joined)
            return self._backend.encode_batch(texts)
        bounds = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in encoded], out=bounds[1:])
        encoded_before = self._table.encoded_words
        ids, lengths, words = self._table.encode(joined, bounds, LARGEST_EXACT_SUM - _LARGEST_SUM_OF_WORD)
        if self._table.encoded_words - encoded_before > LARGEST_NEW_SHARE * max(words.sum(), FEWEST_WORDS):
            self._skipped_bytes = _SKIPPED_BATCHES * len(joined)
        left_out = np.flatnonzero(words == LEFT_OUT).tolist()
        if not left_out:
            return ids, lengths
        return replace_ids(ids, lengths, left_out, self._backend.encode_batch([texts[index] for index in left_out]))

    def _encode_words(self, words: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
        """Ids of words in a row, the number of ids per word, and an upper bound of the cost of each word.

        A word that begins within a text is encoded with a context before it, whose ids are then left out.
        """
        first_bytes = [word[0] for word in words]
        texts = [self._contexts[byte] + word for byte, word in zip(first_bytes, words, strict=True)]
        ids, sizes = self._encode_texts(texts)
        context_sizes = self._context_sizes[first_bytes]
        first = np.cumsum(sizes) - sizes + context_sizes
        sizes = sizes - context_sizes
        ids = ids[_ranges(first, sizes)]
        ends = np.cumsum(sizes)
        sums = np.append(0.0, np.cumsum(self._costs[ids]))
        costs = sums[ends] - sums[ends - sizes]
        # An unknown token can be any number of the characters of its word
        unknown = np.unique(np.searchsorted(ends, np.flatnonzero(ids == self._backend.unk_id), side="right"))
        costs[unknown] += self._cost_per_byte * np.array([len(words[index]) for index in unknown.tolist()])
        return ids, sizes, costs

    def _encode_texts(self, texts: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of short texts in a row, and the number of ids per text.

        Plain texts, a space and visible ASCII characters, are encoded many at once, which takes a fourth of the time:
        each begins with the token that begins with a space.
        """
        is_plain = self._are_plain(texts)
        plain, other = np.flatnonzero(is_plain), np.flatnonzero(~is_plain)
        plain_ids, plain_sizes = self._encode_plain([texts[index] for index in plain.tolist()])
        if len(plain_sizes) != len(plain):  # not in any known version of SentencePiece
            return self._encode_separately(texts)
        other_ids, other_sizes = self._encode_separately([texts[index] for index in other.tolist()])
        sizes = np.empty(len(texts), dtype=np.int64)
        sizes[plain], sizes[other] = plain_sizes, other_sizes
        first = np.cumsum(sizes) - sizes
        ids = np.empty(len(plain_ids) + len(other_ids), dtype=np.int32)
        ids[_ranges(first[plain], plain_sizes)] = plain_ids
        ids[_ranges(first[other], other_sizes)] = other_ids
        return ids, sizes

    def _are_plain(self, texts: list[bytes]) -> NDArray[np.bool_]:
        """Whether each text is a space and visible ASCII characters, which are unchanged by normalisation."""
        characters = np.frombuffer(b"".join(texts), dtype=np.uint8)
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        starts = np.cumsum(lengths) - lengths
        is_special = (characters <= ord(" ")) | (characters > ord("~"))
        has_one = np.add.reduceat(is_special, starts, dtype=np.int64) == 1
        is_plain: NDArray[np.bool_] = has_one & (characters[starts] == ord(" ")) & (lengths > 1) & self._keeps_ascii
        return is_plain

    def _encode_plain(self, words: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of plain words, and the number of ids per word."""
        if not words:
            return _NO_IDS
        ends = np.cumsum(np.fromiter(map(len, words), dtype=np.int64, count=len(words)))
        texts = ends // int(_LARGEST_SUM_OF_WORD / self._largest_cost)  # number of the text of each word
        cuts = [0, *(np.flatnonzero(np.diff(texts)) + 1).tolist(), len(words)]
        ids, _ = self._backend.encode_batch([b"".join(words[a:b]).decode() for a, b in pairwise(cuts)])
        return ids, np.diff(np.flatnonzero(self._begins_word[ids]), append=len(ids))

    def _encode_separately(self, words: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if not words:
            return _NO_IDS
        return self._backend.encode_batch([word.decode() for word in words])


def _reason_against(backend: SentencePieceBackend, replacements: Replacements) -> str | None:
    """The property that prevents encoding ``backend``'s model word by word; None if there is none."""
    settings = backend.settings
    reasons = {
        "which is not a unigram model": settings.model_type != "unigram",
        "whose scores are not rounded": not backend.scores_are_rounded,
        "which has user-defined pieces": PieceType.USER_DEFINED in backend.types,
        "whose pieces can cross words": not backend.keeps_words_apart,
        "which removes spaces or puts one before texts, but not both": (
            settings.add_dummy_prefix != settings.remove_extra_whitespaces
        ),
        "which normalises texts, but keeps spaces": (
            bool(settings.precompiled_charsmap) and not settings.remove_extra_whitespaces
        ),
        "whose normalisation can cross words": replacements.join_ascii or replacements.make_space_marks,
        "whose scores are positive or very low": (
            max(backend.scores) > 0 or _largest_cost(backend) * replacements.longest > _LARGEST_SUM_OF_WORD / 32
        ),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), None)


def _largest_cost(backend: SentencePieceBackend) -> float:
    """Upper bound of the cost, the negative score, of one character of a segmentation."""
    return _UNKNOWN_PENALTY - min(backend.scores)


def _costs(backend: SentencePieceBackend, of_character: float) -> NDArray[np.float64]:
    """Upper bound of the cost of each token, shape ``[ids]``; 0 for the unknown token."""
    costs = -np.array(backend.scores)
    costs[[kind is PieceType.BYTE for kind in backend.types]] = of_character  # can be all bytes of an unknown character
    costs[backend.unk_id] = 0.0
    return costs


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers from each of ``starts``, as many as ``lengths`` says, in a row."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
