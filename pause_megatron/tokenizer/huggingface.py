"""The same tokenizer for Hugging Face: built from the model's own pieces, then proven equal on real text.

Conversion and everything downstream use this; the folder it is saved to loads with stock ``AutoTokenizer``. The classes
of transformers that open a ``.model`` file themselves give other ids than SentencePiece does, hence a
``tokenizers.models.Unigram`` made here, and hence :func:`prove_equal`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.model_file import ModelSettings, read_settings
from pause_megatron.tokenizer.pause_tokenizer import PAUSE_PIECE, PauseTokenizer

_SPACE = "▁"
"""SentencePiece's sign for a space (U+2581)."""

AWKWARD_TEXTS = (
    "",
    " ",
    "   two  runs   of spaces   ",
    "\n",
    "first line\n\n  indented line\r\n\tafter a tab\n",
    "<pause>",
    "a literal <pause> in text, </s> and <unk>, and <0x41>",
    "▁ ▁▁word",
    "naïve café, cafe\u0301, ﬁne ½ №",
    "日本語の文章、العربية, кириллица",
    "😀 👩‍👩‍👧 \u200b\ufeff\ufffd",
    "\x00\x07\x7f",
    "1234567890 3.14 1,000,000",
    "a" * 1000,
)
"""Always compared besides the texts given: what conversions of tokenizers are known to get wrong."""


def to_huggingface(tokenizer: PauseTokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer for Hugging Face that encodes as ``tokenizer`` does. Follow it by :func:`prove_equal`.

    No token is added to a text, ``</s>`` is ``eos_token`` and stands in for a ``pad_token``, ``<pause>`` is an extra
    special token. The names of special tokens in a text are text (``split_special_tokens``).

    Raises :class:`UserError` for a SentencePiece model that is not unigram, or spells no unknown characters in bytes.
    """
    processor = tokenizer.processor
    settings = read_settings(processor.serialized_model_proto())
    if not (settings.is_unigram and any(map(processor.is_byte, range(tokenizer.vocab_size)))):
        raise UserError(
            f"{tokenizer.path}: only SentencePiece models of type unigram with byte_fallback can be exported"
        )
    backend = Tokenizer(models.Unigram(_vocabulary(tokenizer), unk_id=processor.unk_id(), byte_fallback=True))
    backend.normalizer = _normalizer(settings)
    backend.decoder = _decoder(settings)
    end_of_document = processor.id_to_piece(tokenizer.eod_id)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=processor.id_to_piece(processor.unk_id()),
        eos_token=end_of_document,
        pad_token=end_of_document,
        extra_special_tokens=[PAUSE_PIECE],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def prove_equal(tokenizer: PauseTokenizer, hf_tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> int:
    """Compare both tokenizers' ids, and their decoding of them, on ``texts`` and on :data:`AWKWARD_TEXTS`.

    Returns the number of texts compared. Raises :class:`UserError` at the first difference.
    """
    compared = 0
    for text in chain(AWKWARD_TEXTS, texts):
        ids, hf_ids = tokenizer.encode(text), hf_tokenizer.encode(text)
        if ids != hf_ids:
            position = _first_difference(ids, hf_ids)
            raise UserError(
                f"{tokenizer.path}: the Hugging Face tokenizer encodes {_excerpt(text)} differently from token "
                f"{position} on: {hf_ids[position : position + 5]} instead of {ids[position : position + 5]}"
            )
        decoded, hf_decoded = tokenizer.decode(ids), hf_tokenizer.decode(hf_ids)
        if decoded != hf_decoded:
            raise UserError(
                f"{tokenizer.path}: the Hugging Face tokenizer decodes the ids of {_excerpt(text)} to "
                f"{_excerpt(hf_decoded)} instead of {_excerpt(decoded)}"
            )
        compared += 1
    return compared


def _vocabulary(tokenizer: PauseTokenizer) -> list[tuple[str, float]]:
    """Pieces and scores in the order of their ids.

    SentencePiece never matches special and byte pieces in a text, `tokenizers` matches every piece. Here these pieces
    get scores that lose to spelling them out, which works when all their characters are pieces too.
    """
    processor = tokenizer.processor
    ids = range(tokenizer.vocab_size)
    ordinary = [not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i)) for i in ids]
    lowest = min(processor.get_score(i) for i in ids if ordinary[i])
    pieces = [processor.id_to_piece(i) for i in ids]
    return [(pieces[i], processor.get_score(i) if ordinary[i] else lowest * len(pieces[i]) - 1) for i in ids]


def _normalizer(settings: ModelSettings) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if settings.precompiled_charsmap:
        steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
    if settings.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if settings.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _decoder(settings: ModelSettings) -> decoders.Decoder:
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if settings.add_dummy_prefix:
        steps.append(decoders.Strip(" ", left=1))
    return decoders.Sequence(steps)


def _first_difference(ids: list[int], others: list[int]) -> int:
    pairs = enumerate(zip(ids, others, strict=False))
    return next((position for position, (a, b) in pairs if a != b), min(len(ids), len(others)))


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
