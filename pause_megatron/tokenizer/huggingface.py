"""Conversion of a tokenizer to Hugging Face, its files, and comparison of both on text."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pause_megatron.atomic import write_json
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.hub_settings import CONFIG_FILE
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS, PAUSE_TOKEN, PauseTokenizer, excerpt
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import convert_sentencepiece
from pause_megatron.tokenizer.token_marks import DISTINCT_MARK, PAUSE_MARK, hide_tokens, mark_tokens
from pause_megatron.tokenizer.tokenizer_json import unknown_in_template
from pause_megatron.tokenizer.tokenizers_backend import TOKENIZER_FILE, open_tokenizer


def to_huggingface(
    tokenizer: PauseTokenizer, *, max_length: int | None = None, marks_pauses: bool = True
) -> PreTrainedTokenizerFast:
    """The Hugging Face tokenizer that encodes as ``tokenizer`` does. You should check it with :func:`prove_equal`.

    It puts :attr:`~PauseTokenizer.bos_ids` before a text and adds nothing else. The end-of-document token is its
    ``eos_token`` and ``pad_token``, and ``<pause>`` is an extra special token. Names of special tokens in a text are
    text (``split_special_tokens``). But a chat template, which stays, writes such names: with one, they are tokens as
    in the original, except ``<pause>``, which is a marked token then (see :func:`mark_tokens`), or without
    ``marks_pauses`` a hidden one (see :func:`hide_tokens`), which a template cannot write. ``max_length``, the model's
    context in tokens, is the ``model_max_length`` of a tokenizer that has none.

    Raises :class:`UserError` for a SentencePiece model that Hugging Face's library does not support.
    """
    backend = tokenizer.backend
    if isinstance(backend, SentencePieceBackend):
        library, special = convert_sentencepiece(backend), backend.control_names
    else:
        library, special = open_tokenizer(backend.path, backend.prepared), list(tokenizer.pause_names)
    content = json.loads(library.to_str())
    if tokenizer.bos_ids:
        content["post_processor"] = _template([(str(library.id_to_token(index)), index) for index in tokenizer.bos_ids])
    if backend.hub.chat_template:
        special = [name for name in special if name not in tokenizer.pause_names]
        marks = [PAUSE_MARK] if not tokenizer.distinct_pauses else map(DISTINCT_MARK.format, tokenizer.pause_names)
        if marks_pauses:
            content = mark_tokens(content, library.normalizer, dict(zip(tokenizer.pause_ids, marks, strict=True)))
        else:
            content = hide_tokens(content, tokenizer.pause_names)
    named = {"eos_token": backend.eos_name, "unk_token": backend.unk_name, "bos_token": backend.bos_name}
    settings: dict[str, Any] = {key: name for key, name in named.items() if name is not None}
    if isinstance(backend, SentencePieceBackend) and not backend.settings.add_dummy_prefix:
        settings["add_prefix_space"] = False  # for llama.cpp; transformers reads it from tokenizer.json
    return PreTrainedTokenizerFast(
        tokenizer_object=open_tokenizer(tokenizer.path, content),
        pad_token=backend.eos_name,
        **settings,
        extra_special_tokens=[name for name in special if name not in named.values()],
        split_special_tokens=not backend.hub.chat_template,
        chat_template=backend.hub.chat_template,
        model_max_length=backend.hub.model_max_length or max_length,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _template(before_text: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Post-processor of ``tokenizer.json`` that puts ``before_text``, names and ids, before each text."""

    def parts(sequence: str, kind: int) -> list[dict[str, Any]]:
        start = [{"SpecialToken": {"id": name, "type_id": kind}} for name, _ in before_text]
        return [*start, {"Sequence": {"id": sequence, "type_id": kind}}]

    tokens = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in before_text}
    single, second = parts("A", 0), parts("B", 1)
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, *second], "special_tokens": tokens}


def ids_before_text(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that any Hugging Face ``tokenizer`` puts before a text: the beginning-of-text token, or nothing.

    Raises :class:`UserError` if it also changes the ids of the text, or if its post-processor is damaged.
    """
    library = getattr(tokenizer, "backend_tokenizer", None)
    if library and library.post_processor:
        unknown = unknown_in_template(json.loads(library.post_processor.__getstate__()))
        if unknown is not None:
            raise UserError(f"{tokenizer.name_or_path}: the post_processor of its tokenizer has no ids for {unknown}")
    text, complete = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    for start in range(len(complete) - len(text) + 1):
        if complete[start : start + len(text)] == text:
            return tuple(complete[:start])
    raise UserError(
        f"{tokenizer.name_or_path}: encodes 'a' as {text} without special tokens, but as {complete} with them; "
        "use a tokenizer that only adds tokens"
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the files of ``tokenizer`` so that transformers 4.57 and 5 load the same tokenizer from them.

    transformers 5 writes a class and a list of special tokens that 4.57 cannot read, and reads what 4.57 writes. 4.57
    also changes the pre-tokenizer unless ``add_prefix_space`` agrees with it. ``add_bos_token`` is for readers that do
    not apply the post-processor, such as llama.cpp.
    """
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    library = folder / TOKENIZER_FILE
    splitting = json.loads(library.read_bytes())["pre_tokenizer"] if library.is_file() else None
    if splitting and "add_prefix_space" in splitting:
        config["add_prefix_space"] = splitting["add_prefix_space"]
    added = tokenizer.encode("")
    if added in ([], [tokenizer.bos_token_id]):  # not with other tokens, such as baked pauses: it could overrule them
        config["add_bos_token"] = bool(added)
    write_json(folder / CONFIG_FILE, config)


def prove_equal(tokenizer: PauseTokenizer, hf_tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> int:
    """Compare the ids of both tokenizers, and the texts decoded from them, on ``texts`` and :data:`EDGE_CASE_TEXTS`.

    Names of special tokens in them are text. The text ``<pause>`` is not compared if there is a chat template.

    Returns the number of texts compared. Raises :class:`UserError` at the first difference.
    """
    skipped = None if hf_tokenizer.split_special_tokens else PAUSE_TOKEN
    compared = [text for text in (*EDGE_CASE_TEXTS, *texts) if text != skipped]
    for text in compared:
        ids = [*tokenizer.bos_ids, *tokenizer.encode(text)]
        hf_ids = hf_tokenizer.encode(text, split_special_tokens=True, verbose=False)
        if ids != hf_ids:
            pairs = enumerate(zip(ids, hf_ids, strict=False))
            position = next((index for index, (a, b) in pairs if a != b), min(len(ids), len(hf_ids)))
            raise UserError(
                f"{tokenizer.path}: the Hugging Face tokenizer encodes {excerpt(text)} differently from token "
                f"{position} on: {hf_ids[position : position + 5]} instead of {ids[position : position + 5]}; "
                "make a tokenizer that can be exported with `pause-megatron tokenizer`"
            )
        ids = ids[len(tokenizer.bos_ids) :]
        decoded, hf_decoded = tokenizer.decode(ids), hf_tokenizer.decode(ids)
        # The text behind <unk> is lost, and the libraries write <unk> in different ways.
        if decoded != hf_decoded and tokenizer.backend.unk_id not in ids:
            raise UserError(
                f"{tokenizer.path}: the Hugging Face tokenizer decodes the ids of {excerpt(text)} to "
                f"{excerpt(hf_decoded)} instead of {excerpt(decoded)}"
            )
    return len(compared)
