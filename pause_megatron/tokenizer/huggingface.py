"""Conversion of a tokenizer to Hugging Face, and comparison of both on text."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS, PAUSE_TOKEN, PauseTokenizer, excerpt
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import convert_sentencepiece
from pause_megatron.tokenizer.tokenizers_backend import open_tokenizer


def to_huggingface(tokenizer: PauseTokenizer) -> PreTrainedTokenizerFast:
    """The Hugging Face tokenizer that encodes as ``tokenizer`` does. You should check it with :func:`prove_equal`.

    It adds no token to a text. The end-of-document token is its ``eos_token`` and ``pad_token``, and ``<pause>`` is an
    extra special token. Names of special tokens in a text are text (``split_special_tokens``).

    Raises :class:`UserError` for a SentencePiece model that Hugging Face's library does not support.
    """
    backend = tokenizer.backend
    if isinstance(backend, SentencePieceBackend):
        library, special = convert_sentencepiece(backend), backend.control_names
    else:
        library, special = open_tokenizer(backend.path, backend.prepared), [PAUSE_TOKEN]
    names = (backend.eos_name, backend.unk_name)
    return PreTrainedTokenizerFast(
        tokenizer_object=library,
        eos_token=backend.eos_name,
        pad_token=backend.eos_name,
        unk_token=backend.unk_name,
        extra_special_tokens=[name for name in special if name not in names],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def prove_equal(tokenizer: PauseTokenizer, hf_tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> int:
    """Compare the ids of both tokenizers, and the texts decoded from them, on ``texts`` and :data:`EDGE_CASE_TEXTS`.

    Returns the number of texts compared. Raises :class:`UserError` at the first difference.
    """
    compared = [*EDGE_CASE_TEXTS, *texts]
    for text in compared:
        ids, hf_ids = tokenizer.encode(text), hf_tokenizer.encode(text)
        if ids != hf_ids:
            pairs = enumerate(zip(ids, hf_ids, strict=False))
            position = next((index for index, (a, b) in pairs if a != b), min(len(ids), len(hf_ids)))
            raise UserError(
                f"{tokenizer.path}: the Hugging Face tokenizer encodes {excerpt(text)} differently from token "
                f"{position} on: {hf_ids[position : position + 5]} instead of {ids[position : position + 5]}; "
                "make a tokenizer that can be exported with `pause-megatron tokenizer`"
            )
        decoded, hf_decoded = tokenizer.decode(ids), hf_tokenizer.decode(hf_ids)
        # The text behind <unk> is lost, and the libraries write <unk> in different ways.
        if decoded != hf_decoded and tokenizer.backend.unk_id not in ids:
            raise UserError(
                f"{tokenizer.path}: the Hugging Face tokenizer decodes the ids of {excerpt(text)} to "
                f"{excerpt(hf_decoded)} instead of {excerpt(decoded)}"
            )
    return len(compared)
