"""Places in a text at which a token of a unigram model must begin, whatever the rest of the text is.

No piece of the model and no replacement of its normalisation reaches over such a place. So the best segmentation of a
text is that of the words between these places, in a row. A place depends on the two characters next to it:

- before a space that follows another character, because pieces have spaces only at their start;
- next to a newline that is a piece of its own;
- between ASCII letters, digits and punctuation, and before typographic punctuation, if no piece has both. This is
  usual, because SentencePiece's trainer does not join scripts.
"""

from __future__ import annotations

import string
from itertools import pairwise

import numpy as np

from pause_megatron.tokenizer.model_file import PieceType
from pause_megatron.tokenizer.sentencepiece_backend import SPACE, SentencePieceBackend
from pause_megatron.tokenizer.word_table import Places

_OTHER, _SPACE, _NEWLINE, _GENERAL, *_VISIBLE = range(7)
_MEMBERS = (string.ascii_letters, string.digits, string.punctuation)
"""Characters of the classes in ``_VISIBLE``. Those without a token are left out: in a row they become one <unk>."""
_GENERAL_LEAD = 0xE2
"""First byte of typographic punctuation, such as curly quotes and dashes; they have the class ``_GENERAL``."""


class WordBoundaries:
    """The places in texts of one model.

    Attributes: ``places``. ``contexts`` has, for each first byte of a word, a text that can stand before it: a space
    and a character, with a place after it. It is empty if no place between visible characters can precede the byte.
    """

    def __init__(self, backend: SentencePieceBackend, *, changes_ascii: bool) -> None:
        """``changes_ascii`` says whether normalisation replaces visible ASCII characters."""
        folds_spaces = backend.settings.remove_extra_whitespaces
        newline_is_space = folds_spaces and backend.processor.normalize("a\nb") == f"{SPACE}a{SPACE}b"
        normalises = bool(backend.settings.precompiled_charsmap)
        kinds = zip(backend.pieces, backend.types, strict=True)
        pieces = {piece for piece, kind in kinds if kind is PieceType.NORMAL}
        spells = PieceType.BYTE in backend.types
        members = [[each for each in text if spells or each in pieces] for text in _MEMBERS]
        class_of = {each: kind for kind, some in zip(_VISIBLE, members, strict=True) for each in some}
        classes = {ord(each): kind for each, kind in class_of.items()}
        classes |= {ord(" "): _SPACE, ord("\n"): _SPACE if newline_is_space else _NEWLINE, _GENERAL_LEAD: _GENERAL}
        class_of_byte = [classes.get(byte, _OTHER) for byte in range(256)]
        between = set() if changes_ascii else _pairs_apart(pieces, class_of)
        if normalises:  # which can make letters of typographic characters
            between = {pair for pair in between if _GENERAL not in pair}
        apart = {(kind, _SPACE) for kind in (_OTHER, *_VISIBLE)} | between
        if not folds_spaces and backend.keeps_newlines_apart:
            apart |= {pair for kind in range(7) for pair in ((kind, _NEWLINE), (_NEWLINE, kind))}
        self.places = Places(
            np.array(class_of_byte, dtype=np.uint8),
            np.array([(pair >> 3, pair & 7) in apart for pair in range(64)]),
            # A combining mark can change the visible character before it
            np.array([normalises and kind > _NEWLINE for kind in range(8)]),
        )
        before = {after: members[_VISIBLE.index(first)][0] for first, after in sorted(between)}
        self.contexts = [f" {before[kind]}".encode() if kind in before else b"" for kind in class_of_byte]


def _pairs_apart(pieces: set[str], class_of: dict[str, int]) -> set[tuple[int, int]]:
    """Pairs of classes of visible characters that no piece has next to each other."""
    joined = {
        (class_of.get(a, _OTHER), class_of.get(b, _GENERAL if b.encode()[0] == _GENERAL_LEAD else _OTHER))
        for piece in pieces
        for a, b in pairwise(piece)
    }
    used = set(class_of.values())
    return {(a, b) for a in used for b in {_GENERAL, *used}} - joined
