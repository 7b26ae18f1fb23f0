"""What turns batches of text into ids in preprocessing: the reference encoder, and a fast one that must equal it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.gigatoken_encoder import GigatokenEncoder
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS, PauseTokenizer

_COMPARED_AT_ONCE = 256


class Encoder(Protocol):
    """Encodes batches of texts on one thread."""

    name: str
    """``sentencepiece``, ``tokenizers`` or ``gigatoken``."""

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Ids of all texts one after the other, shape ``[tokens]``, and how many each has, shape ``[texts]``."""
        ...


class ReferenceEncoder:
    """The tokenizer itself."""

    def __init__(self, tokenizer: PauseTokenizer) -> None:
        self.name: str = tokenizer.encoder_name
        self._tokenizer = tokenizer

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """See :class:`Encoder`."""
        return self._tokenizer.encode_batch(texts)


def open_encoder(tokenizer: PauseTokenizer, name: str) -> Encoder:
    """The encoder called ``name``.

    Raises :class:`UserError` when it cannot encode for this tokenizer, or is not installed.
    """
    if name == tokenizer.encoder_name:
        return ReferenceEncoder(tokenizer)
    if name == GigatokenEncoder.name:
        return GigatokenEncoder(tokenizer)
    raise UserError(
        f"encoder {name}: {tokenizer.path} is encoded by {tokenizer.encoder_name}, or by {GigatokenEncoder.name}"
    )


def choose_encoder(
    tokenizer: PauseTokenizer, wanted: Literal["auto", "reference", "gigatoken"], texts: Iterable[str]
) -> str:
    """The name of the encoder to use, for :func:`open_encoder`.

    The fast one is chosen only after it gave the reference's ids for all ``texts``, the first documents of the run, and
    for some awkward ones. Where it does not, or cannot be had, ``auto`` falls back with a warning, and ``gigatoken``
    raises :class:`UserError`. ``auto`` is silent about a tokenizer that is no byte-pair encoding, which only the
    reference can do.
    """
    if wanted == "reference" or (wanted == "auto" and not tokenizer.backend.is_bpe):
        return tokenizer.encoder_name
    texts = list(texts)  # here, since an error of reading them is none of the encoder's
    try:
        fast = GigatokenEncoder(tokenizer)
        _compare(fast, ReferenceEncoder(tokenizer), texts)
    except UserError as error:
        if wanted == "gigatoken":
            raise
        log.warn(f"{error}; {tokenizer.encoder_name} is used")
        return tokenizer.encoder_name
    return fast.name


def _compare(fast: Encoder, reference: Encoder, texts: Iterable[str]) -> None:
    """Raises :class:`UserError` that names the first text with other ids."""
    remaining = iter(texts)
    batch, number = list(EDGE_CASE_TEXTS), 1 - len(EDGE_CASE_TEXTS)
    while batch:
        (ids, lengths), (expected, expected_lengths) = (encoder.encode_batch(batch) for encoder in (fast, reference))
        if not (np.array_equal(lengths, expected_lengths) and np.array_equal(ids, expected)):
            ends, expected_ends = np.cumsum(lengths)[:-1], np.cumsum(expected_lengths)[:-1]
            pairs = zip(np.split(ids, ends), np.split(expected, expected_ends), strict=True)
            first = next(index for index, pair in enumerate(pairs) if not np.array_equal(*pair))
            which = f"document {number + first} of the run" if number > 0 else "a text made to test it"
            text = batch[first] if len(batch[first]) <= 60 else batch[first][:60] + "…"
            raise UserError(f"encoder {fast.name}: it encodes {which} differently from {reference.name}: {text!r}")
        number += len(batch)
        batch = list(islice(remaining, _COMPARED_AT_ONCE))
