"""What turns batches of text into ids in preprocessing: the reference encoder, and a fast one that must equal it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron import log
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.pause_tokenizer import PauseTokenizer

FAST_ENCODER = "gigatoken"


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
    raise UserError(f"encoder {name}: {tokenizer.path} can be used with {tokenizer.encoder_name} only")


def choose_encoder(
    tokenizer: PauseTokenizer, wanted: Literal["auto", "reference", "gigatoken"], texts: Iterable[str]
) -> str:
    """The name of the encoder to use, for :func:`open_encoder`.

    The fast one is chosen only after it gave the reference's ids for all ``texts``, the first documents of the run.
    """
    if wanted == "reference":
        return tokenizer.encoder_name
    try:
        return open_encoder(tokenizer, FAST_ENCODER).name
    except UserError as error:
        if wanted == FAST_ENCODER:
            raise
        log.warn(f"{error}")
        return tokenizer.encoder_name
