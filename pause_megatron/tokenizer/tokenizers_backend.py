"""Hugging Face fast tokenizers: ``tokenizer.json``, run by the ``tokenizers`` library alone.

One of the two backends of :class:`~pause_megatron.tokenizer.pause_tokenizer.PauseTokenizer`. Special tokens are never
recognised in a text, and nothing is added to one; see :func:`~pause_megatron.tokenizer.tokenizer_json.prepare`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pause_megatron.errors import UserError
from pause_megatron.tokenizer import tokenizer_json
from pause_megatron.tokenizer.cutting import ASCII_NEIGHBOURS, NEWLINES_IN_WORDS, WORD_NEIGHBOURS, Cuts, find_cuts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


class TokenizersBackend:
    """A Hugging Face fast tokenizer.

    Attributes: ``prepared`` (the content of ``tokenizer.json`` as used here), ``vocab_size`` (one more than the largest
    id, those of added tokens included), ``eod_id`` and ``eos_name`` (``eos_token``), ``unk_id`` and ``unk_name``
    (``None`` where there is none), ``cuts``.
    """

    encoder_name = "tokenizers"

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        original = parse_tokenizer(path, content)
        ids = tokenizer_json.all_ids(original)
        self.vocab_size: int = max(ids.values()) + 1
        self.eos_name = _eos_token(path)
        self.eod_id: int | None = ids.get(self.eos_name) if self.eos_name else None
        self.unk_name: str | None = _unknown_token(original["model"])
        self.unk_id: int | None = ids.get(self.unk_name) if self.unk_name else None
        self._special = tokenizer_json.special_tokens(original)
        self._ids = ids
        self.prepared = tokenizer_json.prepare(original, self.eos_name if self.eod_id is not None else None)
        self.tokenizer = self.open_library()
        self._check_added_tokens()
        places = _places_to_cut(original)
        self.cuts: Cuts | None = find_cuts(places, self.encode) if places else None

    @property
    def is_bpe(self) -> bool:
        """Whether this is byte-pair encoding."""
        return bool(self.prepared["model"]["type"] == "BPE")

    def open_library(self) -> Tokenizer:
        """A new object of the library for :attr:`prepared`, which takes the names of special tokens for text."""
        return open_tokenizer(self.path, self.prepared)

    def no_end_of_document(self) -> str:
        """What to do about a tokenizer without one."""
        config = self.path.with_name(CONFIG_FILE)
        if self.eos_name is None:
            return f'no end-of-document token is known; name one in {config}: {{"eos_token": "</s>"}}'
        return f'"eos_token" of {config}, {self.eos_name}, is no token of this tokenizer; name one that is'

    def special_id(self, piece: str) -> int | None:
        """Id of the special token ``piece``; ``None`` when there is no such token.

        Raises :class:`UserError` when text can be encoded to it.
        """
        if piece in self._ids and piece not in self._special:
            raise UserError(
                f"{self.path}: {piece} is an ordinary token here, so that text could be encoded to it; it must be a "
                "special one; take a tokenizer without it and add it with `pause-megatron tokenizer --from-tokenizer`"
            )
        return self._special.get(piece)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; nothing is added before or after."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all ``texts`` in a row, and how many each has."""
        # One by one, for the library's own batches start threads and hold every detail of all texts at once.
        encoded = [np.array(self.encode(text), dtype=np.int32) for text in texts]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return np.concatenate([*encoded, np.empty(0, dtype=np.int32)]), lengths

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; special tokens have none."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _check_added_tokens(self) -> None:
        for token in self.prepared["added_tokens"]:
            name, token_id = token["content"], token["id"]
            if self.tokenizer.token_to_id(name) != token_id:
                raise UserError(
                    f"{self.path}: the added token {name} has the id {token_id} in the file, but "
                    f"{self.tokenizer.token_to_id(name)} when it is loaded; the ids must have no gaps"
                )
            if token["special"] and any(token_id in self.encode(text) for text in (name, f"x{name}y")):
                raise UserError(f"{self.path}: the text {name} is encoded to the special token of that name")


def parse_tokenizer(path: Path, content: bytes) -> dict[str, Any]:
    """The parsed ``content`` of ``path``. Raises :class:`UserError` when it is no tokenizer of a kind known here."""
    try:
        parsed = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None, **json.loads(content)}
        kind = parsed["model"]["type"]
        readable = tokenizer_json.all_ids(parsed) | tokenizer_json.special_tokens(parsed)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the tokenizer.json of a Hugging Face fast tokenizer") from error
    if kind not in tokenizer_json.MODEL_KINDS:
        raise UserError(f"{path}: a tokenizer of type {kind}; expected {' or '.join(tokenizer_json.MODEL_KINDS)}")
    if not readable:
        raise UserError(f"{path}: a tokenizer without any token")
    return parsed


def open_tokenizer(path: Path, parsed: dict[str, Any]) -> Tokenizer:
    """The library's object for a parsed ``tokenizer.json``. Raises :class:`UserError` when the library refuses it."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(parsed))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{path}: not the tokenizer.json of a Hugging Face fast tokenizer: {error}") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def _eos_token(path: Path) -> str | None:
    """``eos_token`` as the ``tokenizer_config.json`` beside ``path`` gives it; ``None`` when it does not."""
    config = path.with_name(CONFIG_FILE)
    try:
        token = json.loads(config.read_bytes()).get("eos_token")
    except OSError:
        return None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config}: not the JSON object that a tokenizer_config.json is") from error
    name: str | None = token.get("content") if isinstance(token, dict) else token
    return name


def _unknown_token(model: dict[str, Any]) -> str | None:
    """The token of unknown characters."""
    name: str | None = model.get("unk_token")
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        name = model["vocab"][model["unk_id"]][0]
    return name


def _places_to_cut(tokenizer: dict[str, Any]) -> str | None:
    """Where a token is known to end, as a pattern; ``None`` when no such place is known."""
    plain = tokenizer_json.is_plain(tokenizer)
    if plain is None or not tokenizer_json.has_boundaries_at_spaces(tokenizer):
        return None
    if plain and tokenizer_json.splits_into_words(tokenizer):
        return f"{WORD_NEIGHBOURS}|{NEWLINES_IN_WORDS}"
    return WORD_NEIGHBOURS if plain else ASCII_NEIGHBOURS
