"""Backend of :class:`~pause_megatron.tokenizer.pause_tokenizer.PauseTokenizer` for Hugging Face fast tokenizers.

It reads ``tokenizer.json`` with the ``tokenizers`` library, without transformers. It never recognises special tokens in
a text, and adds nothing to a text; see :func:`~pause_megatron.tokenizer.tokenizer_json.prepare`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pause_megatron.errors import UserError, one_line
from pause_megatron.tokenizer import tokenizer_json
from pause_megatron.tokenizer.chunking import ASCII_NEIGHBOURS, NEWLINES_IN_WORDS, WORD_NEIGHBOURS, Cuts, find_cuts
from pause_megatron.tokenizer.hub_settings import CONFIG_FILE, read_hub_settings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
_MAX_ID = 2**31
_LIKELY_END = re.compile("</s>|end|eo[sdt]", re.IGNORECASE)


def cannot_encode(path: Path, error: Exception) -> UserError:
    """Return the error of a tokenizer at ``path`` whose library cannot encode a text."""
    return UserError(f"{path}: cannot encode a text ({one_line(error)}); copy the tokenizer again, or use another")


class TokenizersBackend:
    """A Hugging Face fast tokenizer.

    Attributes: ``prepared`` (the content of ``tokenizer.json`` after :func:`tokenizer_json.prepare`), ``is_bpe``,
    ``ids`` and ``special`` (ids of all and of special tokens, by name), ``vocab_size`` (largest id plus one, including
    added tokens), ``hub`` (settings in the files next to it), ``eod_id`` and ``eos_name`` (``eos_token``), ``bos_ids``
    (what the file's post-processor puts before a text), ``bos_name``, ``unk_id`` and ``unk_name`` (``None`` if absent),
    ``cuts``.
    """

    encoder_name = "tokenizers"

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        original = parse_tokenizer(path, content)
        ids = tokenizer_json.all_ids(original)
        self.vocab_size: int = max(ids.values()) + 1
        self.hub = read_hub_settings(path.parent, ids)
        self.eos_name = self.hub.eos_token
        self.eod_id: int | None = ids.get(self.eos_name) if self.eos_name else None
        self.bos_ids = _ids_before_text(path, original.get("post_processor"))
        self.bos_name = _bos_token(path, self.bos_ids, self.hub.bos_token, ids)
        with _damage_reported(path):
            self.unk_name: str | None = _unknown_token(original["model"])
            self.unk_id: int | None = ids.get(self.unk_name) if self.unk_name else None
        self.special: dict[str, int] = tokenizer_json.special_tokens(original)
        self.ids: dict[str, int] = ids
        around_texts = [*self.bos_ids, *([] if self.eod_id is None else [self.eod_id])]
        with _damage_reported(path):
            places = _places_to_cut(original)
            self.prepared = tokenizer_json.prepare(original, around_texts)
        self.is_bpe = bool(self.prepared["model"]["type"] == "BPE")
        self.tokenizer = open_tokenizer(path, self.prepared)
        self._check_added_tokens()
        self.cuts: Cuts | None = find_cuts(places, self.encode) if places else None

    def no_end_of_document(self) -> str:
        """Error message for a tokenizer without an end-of-document token."""
        config = self.path.with_name(CONFIG_FILE)
        if self.eos_name is None:
            example = next(chain(filter(_LIKELY_END.search, self.special), self.special, self.ids))
            return f"no end-of-document token; set one in {config}, for example {json.dumps({'eos_token': example})}"
        return f'"eos_token" of {config}, {self.eos_name}, is not in the vocabulary; set a token that is'

    def special_id(self, piece: str) -> int | None:
        """Id of the special token ``piece``; ``None`` if there is no such token.

        Raises :class:`UserError` if text can be encoded to it.
        """
        if piece in self.ids and piece not in self.special:
            raise UserError(
                f"{self.path}: {piece} is an ordinary token, so text can be encoded to it; use a tokenizer without it, "
                "and add it as a special token with `pause-megatron tokenizer --from-tokenizer`"
            )
        return self.special.get(piece)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; nothing is added before or after.

        Raises :class:`UserError` for a text that the model cannot encode, for example without an unknown token.
        """
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library's own
            raise cannot_encode(self.path, error) from error
        return ids

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all ``texts`` in a row, and the number of ids per text."""
        # One by one: batches of the library start threads, and keep offsets and more for all texts in memory.
        encoded = [np.array(self.encode(text), dtype=np.int32) for text in texts]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return np.concatenate(encoded), lengths

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; special tokens give no text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _check_added_tokens(self) -> None:
        for token in self.prepared["added_tokens"]:
            name, token_id = token["content"], token["id"]
            if self.tokenizer.token_to_id(name) != token_id:
                raise UserError(
                    f"{self.path}: the added token {name} has the id {token_id} in the file, but "
                    f"{self.tokenizer.token_to_id(name)} after loading; remove gaps between ids from the file"
                )
            if token["special"] and any(token_id in self.encode(text) for text in (name, f"x{name}y")):
                raise UserError(
                    f"{self.path}: the text {name} is encoded to the special token of that name; use another tokenizer"
                )


def parse_tokenizer(path: Path, content: bytes) -> dict[str, Any]:
    """Parse ``content``, the bytes of ``path``. Raises :class:`UserError` for an unsupported tokenizer."""
    with _damage_reported(path):
        parsed = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None, **json.loads(content)}
        kind = parsed["model"]["type"]
        ids = tokenizer_json.all_ids(parsed)
        fits = all(type(index) is int and 0 <= index < _MAX_ID for index in ids.values())
        fits &= all(type(token[flag]) is bool for token in parsed["added_tokens"] for flag in tokenizer_json.FLAGS)
        fits &= tokenizer_json.has_prefixes(parsed["model"])
        if not fits:
            raise ValueError("an id, a flag of an added token or a merge is missing or wrong")
    if kind not in tokenizer_json.MODEL_KINDS:
        raise UserError(
            f"{path}: unsupported type {kind}; give a tokenizer of type {' or '.join(tokenizer_json.MODEL_KINDS)}"
        )
    if not ids:
        raise UserError(f"{path}: no tokens; give another file")
    return parsed


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Raise :class:`UserError` about ``path`` if its content lacks something or has another type."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(
            f"{path}: not the tokenizer.json of a Hugging Face fast tokenizer; give another file"
        ) from error


def open_tokenizer(path: Path, parsed: dict[str, Any]) -> Tokenizer:
    """The library's object for a parsed ``tokenizer.json``, which treats names of special tokens as text.

    Raises :class:`UserError` if the library refuses it.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(parsed))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: not the tokenizer.json of a Hugging Face fast tokenizer: {error}") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def _ids_before_text(path: Path, post_processor: dict[str, Any] | None) -> tuple[int, ...]:
    """Ids that ``post_processor`` puts before a text, found by applying it to a text of one token."""
    if post_processor is None:
        return ()
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    one_token = open_tokenizer(path, {"version": "1.0", "model": model, "post_processor": post_processor})
    if (unknown := tokenizer_json.unknown_in_template(post_processor)) is not None:
        raise UserError(f"{path}: its post_processor has no ids for {unknown}; fetch the file again")
    encoding = one_token.encode("a")
    return tuple(encoding.ids[: encoding.sequence_ids.index(0)])


def _bos_token(path: Path, before_text: tuple[int, ...], named: str | None, ids: Mapping[str, int]) -> str | None:
    """Name of the beginning-of-text token: the one put before a text, else ``named`` if the vocabulary has it."""
    names = {index: name for name, index in ids.items()}
    if unknown := [index for index in before_text if index not in names]:
        raise UserError(f"{path}: its post_processor puts the unknown id {unknown[0]} before texts; fetch it again")
    if len(before_text) == 1:
        return names[before_text[0]]
    return named if named in ids else None


def _unknown_token(model: dict[str, Any]) -> str | None:
    name: str | None = model.get("unk_token")
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        name = model["vocab"][model["unk_id"]][0]
    return name


def _places_to_cut(tokenizer: dict[str, Any]) -> str | None:
    plain = tokenizer_json.is_plain(tokenizer)
    if plain is None or not tokenizer_json.has_boundaries_at_spaces(tokenizer):
        return None
    if plain and tokenizer_json.splits_into_words(tokenizer):
        return f"{WORD_NEIGHBOURS}|{NEWLINES_IN_WORDS}"
    return WORD_NEIGHBOURS if plain else ASCII_NEIGHBOURS
