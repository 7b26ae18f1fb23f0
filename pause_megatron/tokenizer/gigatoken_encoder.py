"""The fast encoder: gigatoken, for byte-pair encoding of both kinds.

It gets the vocabulary without special tokens, since it would recognise their names in a text. What is left between it
and the reference are the versions of Unicode: gigatoken knows characters that the reference has yet to learn, and so
takes some for letters that are none there, or reorders them. Texts with such a character go to the reference, found by
the tokens they give, as looking at every character would cost as much as encoding does. Nothing else was found in some
hundred thousand texts, random ones among them, with fourteen vocabularies, five of them of published models;
:mod:`pause_megatron.tokenizer.encoders` compares the two again on the first documents of every run.

Its reader of files is never used: it takes the first member of a gzip file for the whole.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.cutting import encode_in_pieces
from pause_megatron.tokenizer.pause_tokenizer import PauseTokenizer
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import convert_sentencepiece
from pause_megatron.tokenizer.tokenizer_json import flatten

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS_A_TOKENIZER = 1 << 28
"""After so many tokens the tokenizer is opened anew, for it remembers every word it has seen.

Text in which every word is new makes it grow by 9 MB in a million tokens, 2.3 GB until then; real text grows it ever
more slowly. Opening takes 0.1 to 0.5 s of about ten."""

_SHOWN_NORMALIZERS = {"NFC", "Prepend", "Replace"}
"""Precompiled, SentencePiece's own, is known to differ: \\r\\n is one space for one library and two for another."""
_SPACE = {"String": " "}
_UNICODE_17 = (
    "\u0295\u088f\u0c5c\u0cdc\u1acf-\u1aff\u20c1-\u20cf\u2b96\ua7ce-\ua7f1\ufbc3-\ufbd2\ufd90-\ufd91"
    "\ufdc8-\ufdce\U00010000-\U0001cfff\U0001e000-\U0001efff\U0001f6d8-\U0001f6d9\U0001f777-\U0001f77a"
    "\U0001f8d0-\U0001f8d8\U0001fa54-\U0001fa57\U0001fa8a-\U0001fa8e\U0001fac8-\U0001facd\U0001faea-\U0001faef"
    "\U0001fbfa\U0002b73a-\U0002b740\U0002cea2-\U0002ceaf\U000323b0-\U00033479"
)
"""Characters that came or changed with Unicode 17, and rare scripts whole: what patterns of words see otherwise."""
_MARKS_SINCE_UNICODE_9 = (
    "\u07fd\u0897-\u089f\u08ca-\u08d3\u09fe\u0afa-\u0aff\u0c3c\u0d3b-\u0d3c\u0eba\u1715\u1abf-\u1ace\u1df6-\u1dfa\ua82c"
)
"""Combining marks that normalisation to NFC and its like treats otherwise, besides those above."""
_NEWER = _UNICODE_17 + _MARKS_SINCE_UNICODE_9
NEWER_CHARACTERS = re.compile(f"[{_NEWER}]")
_BEGUN_CHARACTER = re.compile(rb"[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2}")
"""A character of more than one byte, without its last byte, or as much of it as there is."""


class GigatokenEncoder:
    """Encodes as ``tokenizer`` does, many times as fast."""

    name = "gigatoken"

    def __init__(self, tokenizer: PauseTokenizer) -> None:
        """Raises :class:`UserError` when gigatoken is not installed, or cannot be the equal of ``tokenizer``."""
        self._reference = tokenizer
        content = _without_special_tokens(tokenizer)
        self._content = json.dumps(content)
        self._tokenizer = self._open()
        self._tokens = 0
        # Without classes of characters and normalisation, all characters are equal before the merges.
        steps = flatten(content["pre_tokenizer"], "pretokenizers") + flatten(content["normalizer"], "normalizers")
        by_merges_alone = {step["type"] for step in steps} <= {"Metaspace", "Prepend", "Replace"}
        self._is_suspect = None if by_merges_alone else _suspect_tokens(self._tokenizer.vocab)

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all ``texts`` in a row, shape ``[tokens]``, and how many each has, shape ``[texts]``."""
        return encode_in_pieces(texts, self._reference.backend.cuts, self._encode_batch)

    def _open(self) -> Any:
        try:
            from gigatoken import Tokenizer
        except ImportError as error:
            raise UserError(
                "encoder gigatoken: it is not installed; pip install 'pause_megatron[fast]', or take the reference"
            ) from error
        try:
            return Tokenizer.from_json(self._content)
        except Exception as error:  # it raises nothing more precise
            raise UserError(f"encoder gigatoken: it cannot read {self._reference.path}: {error}") from error

    def _encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if not texts:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        if self._tokens > TOKENS_A_TOKENIZER:
            self._tokenizer = self._open()
            self._tokens = 0
        encoded = self._tokenizer.encode_batch(texts, parallel=False).layout
        offsets, ids = np.asarray(encoded.offsets.data), np.asarray(encoded.content.data).view(np.int32)
        self._tokens += len(ids)
        lengths = np.diff(offsets)
        suspects = () if self._is_suspect is None else np.flatnonzero(self._is_suspect[ids])
        if not len(suspects):
            return ids, lengths
        documents = np.unique(np.searchsorted(offsets, suspects, side="right") - 1).tolist()
        newer = [document for document in documents if NEWER_CHARACTERS.search(texts[document])]
        return self._with_reference_ids(texts, newer, ids, offsets)

    def _with_reference_ids(
        self, texts: list[str], documents: list[int], ids: NDArray[np.int32], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """``ids``, those of ``documents`` replaced by the reference's."""
        parts, lengths, start = [], np.diff(offsets), 0
        for document in documents:
            replacement = np.array(self._reference.backend.encode(texts[document]), dtype=np.int32)
            parts += [ids[start : offsets[document]], replacement]
            start = offsets[document + 1]
            lengths[document] = len(replacement)
        return np.concatenate([*parts, ids[start:]]), lengths


def _without_special_tokens(tokenizer: PauseTokenizer) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` for gigatoken."""
    backend = tokenizer.backend
    if not backend.is_bpe:
        raise UserError(f"encoder gigatoken: {tokenizer.path} is no byte-pair encoding, which alone it can do")
    if isinstance(backend, SentencePieceBackend):
        converted: dict[str, Any] = json.loads(convert_sentencepiece(backend).to_str())
    else:
        ordinary = [token for token in backend.prepared["added_tokens"] if not token["special"]]
        converted = {**backend.prepared, "added_tokens": ordinary}
    for step in flatten(converted["normalizer"], "normalizers"):
        if step["type"] not in _SHOWN_NORMALIZERS or step.get("pattern", _SPACE) != _SPACE:
            raise UserError(
                f"encoder gigatoken: {tokenizer.path} normalises texts ({step['type']}), where it is not known to be "
                "equal to the reference"
            )
    return converted


def _suspect_tokens(vocabulary: dict[int, bytes]) -> NDArray[np.bool_]:
    """Which tokens may have a newer character, or begin one; shape ``[ids]``."""
    blocks = {
        chr(code).encode()[:-1]  # the 64 characters that differ in their last byte
        for first, last in ((ord(run[0]), ord(run[-1])) for run in re.findall(".-.|.", _NEWER))
        for code in (*range(first, last, 64), last)
    }
    beginnings = {block[:length] for block in blocks for length in range(1, len(block) + 1)}
    suspect = np.zeros(max(vocabulary) + 1, dtype=bool)
    for index, token in vocabulary.items():
        suspect[index] = any(begun in beginnings for begun in _BEGUN_CHARACTER.findall(token))
    return suspect
