"""Fast encoder of byte-pair encodings: the gigatoken library.

gigatoken gets the vocabulary without special tokens, because it would recognise their names in a text. It still differs
from the reference in the version of Unicode: it takes some newer characters for letters, or reorders them. Texts with
such characters are therefore encoded by the reference. They are found by their tokens, since testing every character
would take as long as encoding. No other difference was found in about a hundred thousand texts with fourteen
vocabularies. gigatoken's own file reader is not used: it reads only the first member of a gzip file.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pause_megatron.errors import UserError
from pause_megatron.optional_packages import packages_needed_by
from pause_megatron.process_memory import resident_bytes, return_freed_memory
from pause_megatron.tokenizer.chunking import encode_in_chunks, replace_ids
from pause_megatron.tokenizer.pause_tokenizer import PauseTokenizer
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import convert_sentencepiece
from pause_megatron.tokenizer.tokenizer_json import flatten

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CACHE_BYTES = 512 << 20
"""Growth of this process after which the tokenizer is opened again (0.1 s), to free its cache of all words seen. Words
of 8 letters that never repeat add 16 to 25 MB per million tokens; English stays far below the limit."""
MAX_CACHED_TOKENS = 1 << 25
"""Tokens after which it is opened again if the system does not report the process's memory."""
SENTENCEPIECE_BLOCK_BYTES = 16 << 20
"""Text per batch of SentencePiece models, for which gigatoken begins each batch with an empty cache. The cache and the
longer arrays take 80 MB more than those of batches of 4 MiB."""

_SHOWN_NORMALIZERS = {"NFC", "Prepend", "Replace"}
"""Normalizers with equal results in both libraries. In ``Precompiled``, one makes one space of \\r\\n, the other
two."""
_SPACE = {"String": " "}
_UNICODE_17 = (
    "\u0295\u088f\u0c5c\u0cdc\u1acf-\u1aff\u20c1-\u20cf\u2b96\ua7ce-\ua7f1\ufbc3-\ufbd2\ufd90-\ufd91"
    "\ufdc8-\ufdce\U00010000-\U0001cfff\U0001e000-\U0001efff\U0001f6d8-\U0001f6d9\U0001f777-\U0001f77a"
    "\U0001f8d0-\U0001f8d8\U0001fa54-\U0001fa57\U0001fa8a-\U0001fa8e\U0001fac8-\U0001facd\U0001faea-\U0001faef"
    "\U0001fbfa\U0002b73a-\U0002b740\U0002cea2-\U0002ceaf\U000323b0-\U00033479"
)
"""Characters that word patterns classify differently: new or changed in Unicode 17, and complete rare scripts."""
_MARKS_SINCE_UNICODE_9 = (
    "\u07fd\u0897-\u089f\u08ca-\u08d3\u09fe\u0afa-\u0aff\u0c3c\u0d3b-\u0d3c\u0eba\u1715\u1abf-\u1ace\u1df6-\u1dfa\ua82c"
)
"""Further combining marks, which NFC and similar normalisations treat differently."""
_NEWER = _UNICODE_17 + _MARKS_SINCE_UNICODE_9
NEWER_CHARACTERS = re.compile(f"[{_NEWER}]")
_FIRST_NEWER = min(map(ord, _NEWER.replace("-", "")))
_BEGUN_CHARACTER = re.compile(rb"[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2}")
"""Start of a multi-byte UTF-8 character, without its last byte."""


class GigatokenEncoder:
    """Gives the ids of ``tokenizer``, many times as fast.

    Attribute: ``block_bytes``, the text of one batch, at least, for full speed; 0 if any batch is as good.
    """

    encoder_name = "gigatoken"

    def __init__(self, tokenizer: PauseTokenizer) -> None:
        """Raises :class:`UserError` if gigatoken is not installed, or is not known to give the ids of ``tokenizer``."""
        self._reference = tokenizer
        content = _without_special_tokens(tokenizer)
        self._content = json.dumps(content)
        self._tokenizer = self._open()
        is_sentencepiece = type(self._tokenizer.backend).__name__ == "SentencePieceTokenizer"
        self.block_bytes = SENTENCEPIECE_BLOCK_BYTES if is_sentencepiece else 0
        # If only merges decide, without character classes and normalisation, the version of Unicode does not matter.
        steps = flatten(content["pre_tokenizer"], "pretokenizers") + flatten(content["normalizer"], "normalizers")
        uses_only_merges = {step["type"] for step in steps} <= {"Metaspace", "Prepend", "Replace"}
        self._is_suspect = None if uses_only_merges else _suspect_tokens(self._tokenizer.vocab)

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all ``texts`` in a row, shape ``[tokens]``, and the number of ids per text, shape ``[texts]``."""
        return encode_in_chunks(texts, self._reference.backend.cuts, self._encode_batch)

    def _open(self) -> Any:
        with packages_needed_by("--encoder gigatoken"):
            from gigatoken import Tokenizer
        try:
            opened = Tokenizer.from_json(self._content)
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f"encoder gigatoken: cannot read {self._reference.path} ({error}); use --encoder reference"
            ) from error
        self._tokens, self._resident_bytes = 0, resident_bytes()
        return opened

    def _is_cache_full(self) -> bool:
        now = resident_bytes()
        if now is None or self._resident_bytes is None:
            return self._tokens > MAX_CACHED_TOKENS
        return now - self._resident_bytes > MAX_CACHE_BYTES

    def _encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if self._is_cache_full():
            self._tokenizer = None  # frees the old cache before the new tokenizer is read
            return_freed_memory()
            self._tokenizer = self._open()
        encoded = self._tokenizer.encode_batch(texts, parallel=False).layout
        offsets, ids = np.asarray(encoded.offsets.data), np.asarray(encoded.content.data).view(np.int32)
        self._tokens += len(ids)
        lengths = np.diff(offsets)
        newer = self._with_newer_characters(texts, ids, offsets)
        if not newer:
            return ids, lengths
        reference_ids = self._reference.backend.encode_batch([texts[index] for index in newer])
        return replace_ids(ids, lengths, newer, reference_ids)

    def _with_newer_characters(self, texts: list[str], ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> list[int]:
        """Indices of the texts that the reference must encode."""
        if self._is_suspect is None:
            return []
        # Positions in ids, [suspects], of tokens that may contain a newer character. ``take`` is twice as fast as an
        # index, and clips nothing, since all ids are in the vocabulary.
        suspects = np.flatnonzero(self._is_suspect.take(ids, mode="clip"))
        documents = np.unique(np.searchsorted(offsets, suspects, side="right") - 1).tolist()
        return [document for document in documents if NEWER_CHARACTERS.search(_without_older(texts[document]))]


def _without_older(text: str) -> str:
    """Characters of ``text`` from the first newer one on; the pattern takes ten times as long for all characters."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return codes[codes >= _FIRST_NEWER].tobytes().decode("utf-32-le", "surrogatepass")


def _without_special_tokens(tokenizer: PauseTokenizer) -> dict[str, Any]:
    """Content of a ``tokenizer.json`` for gigatoken."""
    backend = tokenizer.backend
    if not backend.is_bpe:
        raise UserError(
            f"encoder gigatoken: supports only byte-pair encoding, unlike {tokenizer.path}; use --encoder reference"
        )
    if isinstance(backend, SentencePieceBackend):
        converted: dict[str, Any] = json.loads(convert_sentencepiece(backend).to_str())
    else:
        ordinary = [token for token in backend.prepared["added_tokens"] if not token["special"]]
        converted = {**backend.prepared, "added_tokens": ordinary}
    for step in flatten(converted["normalizer"], "normalizers"):
        if step["type"] not in _SHOWN_NORMALIZERS or step.get("pattern", _SPACE) != _SPACE:
            raise UserError(
                f"encoder gigatoken: {tokenizer.path} normalises texts ({step['type']}), so ids could differ from the "
                "reference's; use --encoder reference"
            )
    return converted


def _suspect_tokens(vocabulary: dict[int, bytes]) -> NDArray[np.bool_]:
    """True for tokens that may contain or begin a newer character; shape ``[ids]``."""
    blocks = {
        chr(code).encode()[:-1]  # common prefix of the 64 characters that differ only in their last byte
        for first, last in ((ord(run[0]), ord(run[-1])) for run in re.findall(".-.|.", _NEWER))
        for code in (*range(first, last, 64), last)
    }
    beginnings = {block[:length] for block in blocks for length in range(1, len(block) + 1)}
    suspect = np.zeros(max(vocabulary) + 1, dtype=bool)
    for index, token in vocabulary.items():
        suspect[index] = any(begun in beginnings for begun in _BEGUN_CHARACTER.findall(token))
    return suspect
