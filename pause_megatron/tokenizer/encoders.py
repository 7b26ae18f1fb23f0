"""Encoders of preprocessing: the reference, and fast ones that must give the same ids."""

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.gigatoken_encoder import GigatokenEncoder
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS, PauseTokenizer, excerpt
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.word_encoder import UnsupportedModelError, WordEncoder

_COMPARED_AT_ONCE = 256


class Encoder(Protocol):
    """Encodes batches of texts on one thread; the reference is a :class:`PauseTokenizer` itself."""

    encoder_name: str
    """``sentencepiece``, ``tokenizers``, ``gigatoken`` or ``word-table``."""

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Ids of all texts in a row, shape ``[tokens]``, and the number of ids per text, shape ``[texts]``."""
        ...


FAST_ENCODERS: dict[str, Callable[[PauseTokenizer], Encoder]] = {
    GigatokenEncoder.encoder_name: GigatokenEncoder,
    WordEncoder.encoder_name: WordEncoder,
}


def open_encoder(tokenizer: PauseTokenizer, name: str) -> Encoder:
    """Open the encoder ``name``. Raises :class:`UserError` if it is not installed or does not support ``tokenizer``."""
    if name == tokenizer.encoder_name:
        return tokenizer
    if name in FAST_ENCODERS:
        return FAST_ENCODERS[name](tokenizer)
    known = f"{tokenizer.encoder_name} or {_fast_encoder(tokenizer)}"
    raise UserError(f"encoder {name}: does not support {tokenizer.path}; use {known}")


def least_block_bytes(encoder: Encoder) -> int:
    """Bytes of text that one batch of ``encoder`` should have at least, for full speed; 0 if any number is as good."""
    return encoder.block_bytes if isinstance(encoder, GigatokenEncoder) else 0


def choose_encoder(
    tokenizer: PauseTokenizer, wanted: Literal["auto", "reference", "gigatoken", "word-table"], texts: Iterable[str]
) -> str:
    """Choose the encoder, and return its name for :func:`open_encoder`.

    A fast encoder is chosen only if it gives the reference's ids for all ``texts`` (the first documents of the run)
    and for edge cases. ``auto`` takes gigatoken for byte-pair encoding and the word table for a SentencePiece unigram
    model; if that differs, or gigatoken is not installed, it warns and takes the reference. Without a warning it takes
    the reference for a tokenizer that no fast encoder supports. A fast encoder that was asked for by name and cannot be
    used raises :class:`UserError`.
    """
    name = _fast_encoder(tokenizer) if wanted == "auto" else wanted
    if name not in FAST_ENCODERS:
        return tokenizer.encoder_name
    texts = list(texts)  # outside the try block: an error of reading texts is not an encoder error
    try:
        fast = FAST_ENCODERS[name](tokenizer)
        _compare(fast, tokenizer, texts)
    except UnsupportedModelError:
        if wanted == name:
            raise
        return tokenizer.encoder_name
    except UserError as error:
        if wanted == name:
            raise
        log.warn(f"{error}; using {tokenizer.encoder_name}")
        return tokenizer.encoder_name
    return fast.encoder_name


def _fast_encoder(tokenizer: PauseTokenizer) -> str | None:
    """Name of the fast encoder for this kind of tokenizer."""
    if tokenizer.backend.is_bpe:
        return GigatokenEncoder.encoder_name
    return WordEncoder.encoder_name if isinstance(tokenizer.backend, SentencePieceBackend) else None


def _compare(fast: Encoder, reference: Encoder, texts: list[str]) -> None:
    compared = [*EDGE_CASE_TEXTS, *texts]
    for start in range(0, len(compared), _COMPARED_AT_ONCE):
        batch = compared[start : start + _COMPARED_AT_ONCE]
        (ids, lengths), (expected, expected_lengths) = (encoder.encode_batch(batch) for encoder in (fast, reference))
        if not (np.array_equal(lengths, expected_lengths) and np.array_equal(ids, expected)):
            ends, expected_ends = np.cumsum(lengths)[:-1], np.cumsum(expected_lengths)[:-1]
            pairs = zip(np.split(ids, ends), np.split(expected, expected_ends), strict=True)
            first = next(index for index, pair in enumerate(pairs) if not np.array_equal(*pair))
            number = start + first + 1 - len(EDGE_CASE_TEXTS)
            which = f"document {number} of the run" if number > 0 else "an edge case"
            raise UserError(
                f"encoder {fast.encoder_name}: encodes {which} differently from {reference.encoder_name}: "
                f"{excerpt(batch[first])}"
            )
