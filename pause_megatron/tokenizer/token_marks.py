"""Marks: strings that nobody types, which a Hugging Face tokenizer encodes to a token instead of the token's name.

With them a chat template can write a pause, although ``<pause>`` in a text is text.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import normalizers

from pause_megatron.tokenizer.pause_tokenizer import PAUSE_TOKEN
from pause_megatron.tokenizer.tokenizer_json import add_special_token, all_ids

PAUSE_MARK = "\ue000pause\ue000"
"""Text of one pause in a rendered chat; U+E000 is a private-use character."""
DISTINCT_MARK = "\ue000{}\ue000"
"""Text of one of several distinct pauses, by its name."""


def only_pause_id(vocabulary: Mapping[str, int]) -> int | None:
    """Return the id of ``<pause>``; None without one. Some tokenizers have it under the name :data:`PAUSE_MARK`."""
    return vocabulary.get(PAUSE_TOKEN, vocabulary.get(PAUSE_MARK))


def mark_tokens(
    library: dict[str, Any], normalizer: normalizers.Normalizer | None, marks: Mapping[int, str], *, start: str = ""
) -> dict[str, Any]:
    """A copy of ``library``, a ``tokenizer.json`` with ``normalizer``, in which ``marks`` (by id) stand for tokens.

    Names of special tokens can be text (``split_special_tokens``), but names of ordinary added tokens match in a text,
    so the tokens become ordinary ones. They are ``normalized``: the library matches not the name, but the normalized
    name. The new last steps of the normalizer turn a complete text that is the name, such as ``<pause>``, into the
    mark, so that the mark matches anywhere in a text, and the name within a longer text does not. A space that the
    normalizer puts before a text follows ``start``, marks at the beginning of a text. Decoding drops the tokens.

    They must not be named as special tokens in ``tokenizer_config.json``: transformers would make them special again.
    """
    marked, names = dict(library), {index: name for name, index in all_ids(library).items()}
    for index, mark in marks.items():
        name = normalizer.normalize_str(names[index]) if normalizer else names[index]
        marking = {"type": "Replace", "pattern": {"Regex": rf"\A{re.escape(name)}\z"}, "content": mark}
        marked["normalizer"] = sequence("normalizers", marked["normalizer"], marking)
        for text in (mark, names[index]):  # either is the token for the decoder, depending on the library's version
            if marked["decoder"]:
                dropping = {"type": "Replace", "pattern": {"String": text}, "content": ""}
                marked["decoder"] = sequence("decoders", dropping, marked["decoder"])
        marked = add_special_token(marked, names[index], index)
        for token in marked["added_tokens"]:
            if token["id"] == index:
                token.update(special=False, normalized=True)
    space = normalizer.normalize_str("a").removesuffix("a") if normalizer else ""
    if start and space:
        moving = {"type": "Replace", "pattern": {"Regex": rf"\A{space}{start}"}, "content": start + space}
        marked["normalizer"] = sequence("normalizers", marked["normalizer"], moving)
    return marked


def hide_tokens(library: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A copy of ``library``, a ``tokenizer.json``, in which no text contains the tokens ``names`` of a BPE model.

    They stay in the vocabulary, where no merge leads to them, but are not added tokens, which match in texts. This
    needs no step of a normalizer. The other added tokens enter the vocabulary too, so that its ids have no gaps.
    """
    if library["model"]["type"] != "BPE":
        return library
    kept = [token for token in library["added_tokens"] if token["content"] not in names]
    return {**library, "added_tokens": kept, "model": {**library["model"], "vocab": all_ids(library)}}


def sequence(members: str, *steps: dict[str, Any] | None) -> dict[str, Any]:
    """One step that applies ``steps`` in order; ``members`` is the name of their list, such as ``decoders``."""
    return {"type": "Sequence", members: [step for step in steps if step]}
