"""Reader and editor of ``tokenizer.json``, the file of a Hugging Face fast tokenizer.

:func:`prepare` changes it to the tokenizer that this project encodes with and exports. :func:`add_special_token` adds
``<pause>``. All functions work on the parsed JSON, the serialisation format of :class:`tokenizers.Tokenizer`.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

MODEL_KINDS = ("BPE", "Unigram")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""Of an added token."""
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
_LOCAL_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Precompiled", "Strip", "Lowercase")
"""Normalizers that treat the text on both sides of a space between ASCII letters or digits separately."""
_SPACE_PATTERNS = ({"String": " "}, {"Regex": " {2,}"})
WORD_PATTERNS = (
    # Llama 3 (GPT-4), Qwen 2, GPT-4o, GPT-2 (which ByteLevel has built in), DeepSeek
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|"
    r"\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)
"""Patterns that put a boundary before every single space or newline between word characters: in each, white space is
only the first character of a match, or matches together with other white space only."""
_SPACELESS_PATTERNS = (r"\p{N}{1,3}", r"\p{N}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+")
"""Patterns that never match a space, nor depend on text beyond one."""


def all_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Every token, including added tokens, and its id."""
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):
        vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}


def special_tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Special added tokens and their ids."""
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}


def add_special_token(tokenizer: dict[str, Any], content: str, token_id: int) -> dict[str, Any]:
    """A copy of ``tokenizer`` with the special token ``content`` and its id ``token_id``."""
    token = {"id": token_id, "content": content} | dict.fromkeys(FLAGS, False) | {"special": True}
    others = [other for other in tokenizer["added_tokens"] if other["content"] != content]
    return {**tokenizer, "added_tokens": sorted([*others, token], key=lambda added: added["id"])}


def prepare(tokenizer: dict[str, Any], around_texts: Collection[int]) -> dict[str, Any]:
    """A copy of ``tokenizer`` as this project encodes text with it.

    It adds nothing to a text, does not truncate it, and spells names of special tokens with other tokens. The library
    treats such a name as text (``encode_special_tokens``), but the vocabulary can still contain it: for BPE, merges
    that lead to it are dropped; for unigram models, texts are split within the name. The tokens ``around_texts``, such
    as the end of a document, become special if they are not.
    """
    prepared = {**tokenizer, "truncation": None, "padding": None, "post_processor": None}
    for name, token_id in all_ids(tokenizer).items():
        if token_id in around_texts:
            prepared = add_special_token(prepared, name, token_id)
    model = dict(prepared["model"])
    pieces = all_ids({**prepared, "added_tokens": []})
    never_text = {piece for piece in pieces if BYTE_PIECE.fullmatch(piece)} | special_tokens(prepared).keys()
    if model["type"] == "BPE":
        model |= {"dropout": None, "merges": [merge for merge in model["merges"] if _merged(merge) not in never_text]}
    elif splits := split_names(never_text & pieces.keys(), known=pieces.keys()):
        before = [prepared["pre_tokenizer"]] if prepared["pre_tokenizer"] else []
        prepared["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*before, splits]}
    return {**prepared, "model": model}


def has_prefixes(model: dict[str, Any]) -> bool:
    """Whether all merges have the ``continuing_subword_prefix`` of a BPE ``model``; the library aborts if not."""
    prefix = model.get("continuing_subword_prefix") or ""
    merges = model.get("merges", ()) if prefix else ()
    return all((merge.split(" ") if isinstance(merge, str) else merge)[1].startswith(prefix) for merge in merges)


def unknown_in_template(post_processor: dict[str, Any]) -> str | None:
    """Name of a token in a template of ``post_processor`` for which it has no ids; the library panics at it."""
    for step in flatten(post_processor, "processors"):
        for part in (*step.get("single", ()), *step.get("pair", ())):
            name: str | None = part.get("SpecialToken", {}).get("id")
            if name is not None and name not in step["special_tokens"]:
                return name
    return None


def split_names(names: Iterable[str], known: Iterable[str]) -> dict[str, Any] | None:
    """A pre-tokenizer that splits each of ``names`` in two, so that a unigram model cannot match it as one piece.

    If possible, it splits next to a character that is not ``known``, since no piece can contain that character.
    """
    characters = {piece for piece in known if len(piece) == 1}
    tails = defaultdict(list)
    for name in sorted(names):
        if len(name) > 1:
            is_known = [character in characters for character in name]
            split = next((i for i in range(1, len(name)) if is_known[i - 1] != is_known[i]), 1)
            tails[name[:split]].append(re.escape(name[split:]))
    if not tails:
        return None
    pattern = "|".join(f"{re.escape(head)}(?={'|'.join(tail)})" for head, tail in tails.items())
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "MergedWithPrevious", "invert": False}


def is_plain(tokenizer: dict[str, Any]) -> bool | None:
    """Whether normalisation changes only spaces; ``None`` if it can change text across spaces."""
    plain = True
    for step in flatten(tokenizer["normalizer"], "normalizers"):
        if step["type"] in _LOCAL_NORMALIZERS:
            plain = False
        elif not (step["type"] == "Prepend" or (step["type"] == "Replace" and step["pattern"] in _SPACE_PATTERNS)):
            return None
    return plain


def has_boundaries_at_spaces(tokenizer: dict[str, Any]) -> bool:
    """Whether a token is certain to begin at every single space between word characters."""
    if any(_reaches_over_spaces(token) for token in tokenizer["added_tokens"]):
        return False
    steps = flatten(tokenizer["pre_tokenizer"], "pretokenizers")
    for step in steps:
        if step["type"] == "Split":
            known = _pattern(step) in (*WORD_PATTERNS, *_SPACELESS_PATTERNS) and step["behavior"] == "Isolated"
        else:
            known = step["type"] in ("Metaspace", "WhitespaceSplit", "ByteLevel", "Digits", "Punctuation")
        if not known:
            return False
    splits_at_spaces = any(
        step["type"] == "WhitespaceSplit" or (step["type"] == "Metaspace" and step.get("split", True)) for step in steps
    )
    if splits_at_spaces or splits_into_words(tokenizer):
        return True
    signs = ("▁", " ", "Ġ")
    return all(sign not in piece.lstrip(sign) for piece in all_ids(tokenizer) for sign in signs)


def splits_into_words(tokenizer: dict[str, Any]) -> bool:
    """Whether one of :data:`WORD_PATTERNS` splits the text before the model sees it."""
    return any(
        _pattern(step) in WORD_PATTERNS or (step["type"] == "ByteLevel" and step.get("use_regex", True))
        for step in flatten(tokenizer["pre_tokenizer"], "pretokenizers")
    )


def flatten(step: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """Steps of a normalizer or pre-tokenizer, with sequences replaced by their members."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for member in step[members] for inner in flatten(member, members)]
    return [step]


def _pattern(step: dict[str, Any]) -> str:
    pattern: str = step.get("pattern", {}).get("Regex", "")
    return pattern.replace("\r", r"\r").replace("\n", r"\n")  # some files contain the raw characters


def _reaches_over_spaces(token: dict[str, Any]) -> bool:
    takes_more = any(token[flag] for flag in ("lstrip", "rstrip", "single_word"))
    return " " in token["content"].strip(" ") or (takes_more and not token["special"])


def _merged(merge: str | list[str]) -> str:
    # Older files store the pair as one string, "a b"
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)
