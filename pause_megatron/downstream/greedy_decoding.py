"""Greedy decoding of many answers from shared prefixes, with the texts of the harness's ``hf`` model.

An answer ends at a stop token, at a stop text or at its limit. Ended rows leave the batch, but ``hf`` decodes a batch
until all its answers have ended, and then cuts each text at its first stop text. Usually later tokens do not change
that text. They can after a token for a single byte: bytes that are not UTF-8 together become U+FFFD, also a line feed
among them. Then the text depends on the other answers of the batch, and the answer is :attr:`Ending.DEPENDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pause_megatron.downstream.branched_rows import BranchedRows
from pause_megatron.downstream.shared_prefixes import Continuations

_ARGUMENTS = {"do_sample": False, "temperature": 0.0}
"""Arguments of a task's ``generation_kwargs`` that mean greedy decoding, besides its limits."""
_WITHOUT_EFFECT = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "max_length", "max_new_tokens", "use_cache"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "transformers_version", "_from_model_config"),
    *("output_attentions", "output_hidden_states"),
}
"""Settings of a generation config that do not change greedy decoding, or that :func:`decode_greedily` is given."""


def is_greedy(model: PreTrainedModel, arguments: Mapping[str, Any]) -> bool:
    """Whether ``model.generate(**arguments)`` only takes the likeliest token; ``arguments`` are without limits."""
    if any(name not in _ARGUMENTS or value != _ARGUMENTS[name] for name, value in arguments.items()):
        return False
    return _WITHOUT_EFFECT.issuperset(model.generation_config.to_diff_dict())


_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
"""Name of a token for a single byte."""
_LOOKBACK = 2
"""Tokens that the harness decodes besides as many as its stop text has."""


class Ending(Enum):
    """How decoding of an answer ended."""

    OPEN = "it goes on"
    ENDED = "it has ended, and later tokens would not change its text"
    DEPENDS = "its text depends on when the other answers of its batch in hf end"
    BAD_LOGITS = "its logits are not finite"


@dataclass
class Answer:
    """Tokens of an answer, with the stop token."""

    tokens: list[int] = field(default_factory=list)
    ending: Ending = Ending.OPEN
    had_stop_text: bool = False
    """Whether the harness has seen a stop text in the newest tokens."""


class StopTexts:
    """Finds stop texts in answers as the harness's ``MultiTokenEOSCriteria`` does: in their newest tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, decode: Callable[[list[int]], str], stop: Sequence[str]
    ) -> None:
        """``decode`` returns the text of a complete answer."""
        self._tokenizer = tokenizer
        self._decode = decode
        self._lookback = {text: len(tokenizer.encode(text, add_special_tokens=False)) + _LOOKBACK for text in stop}
        self._last = {text[-1:] for text in stop}
        self._can_end = cache(self._has_last_character)
        self._may_join = cache(self._joins_bytes)

    def update(self, answer: Answer) -> None:
        """Set the ending of ``answer``, whose last token is new, if it has a stop text."""
        answer.had_stop_text |= any(self._is_in(text, answer.tokens[-back:]) for text, back in self._lookback.items())
        if not answer.had_stop_text:
            return
        text = self._decode(answer.tokens)
        if not any(stop in text for stop in self._lookback if stop):
            answer.ending = Ending.DEPENDS
        elif not self._may_join(answer.tokens[-1]):
            answer.ending = Ending.ENDED

    def _is_in(self, stop: str, tokens: list[int]) -> bool:
        return any(map(self._can_end, tokens)) and stop in self._tokenizer.decode(tokens)

    def _has_last_character(self, token: int) -> bool:
        """Whether ``token`` can give the last character of a stop text; decoding few tokens takes most of the time."""
        text = self._tokenizer.decode([token, token])  # the second one keeps a space at its start
        return "\ufffd" in text or self._is_byte(token) or any(last in text for last in self._last)

    def _joins_bytes(self, token: int) -> bool:
        """Whether bytes on both sides of ``token``, itself or others, can be one letter."""
        return self._is_byte(token) or not self._decode([token, token])

    def _is_byte(self, token: int) -> bool:
        return _BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token))) is not None


def decode_greedily(
    continuations: Continuations | BranchedRows,
    logits: torch.Tensor,
    *,
    most: int,
    forbidden: Sequence[int],
    stop_ids: Sequence[int],
    stop_texts: StopTexts,
) -> list[Answer]:
    """Return an answer of up to ``most`` tokens for each row.

    ``logits`` predict the first token, [rows, vocabulary]. ``forbidden`` tokens are never chosen.
    """
    answers = [Answer() for _ in range(len(continuations))]
    rows = list(answers)  # the answer of each row that is still in the batch
    while True:
        logits[:, list(forbidden)] = -torch.inf
        finite, chosen = logits.amax(dim=-1).isfinite().tolist(), logits.argmax(dim=-1)
        for answer, token, is_finite in zip(rows, chosen.tolist(), finite, strict=True):
            if answer.ending != Ending.OPEN:
                continue
            if not is_finite:
                answer.ending = Ending.BAD_LOGITS
                continue
            answer.tokens.append(token)
            if token in stop_ids:
                answer.ending = Ending.ENDED
                continue
            had_stop_text = answer.had_stop_text
            stop_texts.update(answer)
            # At the limit, hf ends too. Only a text that it could have cut at an earlier step depends on its batch.
            if len(answer.tokens) == most and (answer.ending == Ending.OPEN or not had_stop_text):
                answer.ending = Ending.ENDED
        remaining = [place for place, answer in enumerate(rows) if answer.ending == Ending.OPEN]
        if not remaining:
            return answers
        # Copying the states costs about as much as reading them.
        if len(remaining) <= len(rows) // 2 or (continuations.selects_free and len(remaining) < len(rows)):
            continuations.select(remaining)
            rows, chosen = [rows[place] for place in remaining], chosen[remaining]
        logits = continuations.read_next(chosen)
