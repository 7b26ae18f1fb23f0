"""Greedy decoding of many answers from shared prefixes, with the tokens of stock ``generate``.

An answer ends at a stop token, at a stop text or at its limit. Ended rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

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


class StopTexts:
    """Whether an answer contains a stop text; decodes it only if its last token can complete one."""

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = [text for text in stop if text]
        self._last = {text[-1] for text in self._stop}
        self._may_end: dict[int, bool] = {}

    def __call__(self, tokens: list[int]) -> bool:
        """Return whether the text of ``tokens``, whose last one is new, contains a stop text."""
        if (may_end := self._may_end.get(tokens[-1])) is None:
            text = self._decode(tokens[-1:])
            # A token without text of its own, or a part of a character, depends on its neighbours.
            may_end = not text.strip() or "\ufffd" in text or not self._last.isdisjoint(text)
            self._may_end[tokens[-1]] = may_end
        if not may_end:
            return False
        text = self._decode(tokens)
        return any(stop in text for stop in self._stop)


def decode_greedily(
    continuations: Continuations,
    logits: torch.Tensor,
    *,
    most: int,
    forbidden: Sequence[int],
    stop_ids: Sequence[int],
    has_ended: Callable[[list[int]], bool],
) -> list[list[int] | None]:
    """Return up to ``most`` tokens for each row, with the stop token; None for a row with logits that are not finite.

    ``logits`` predict the first token, [rows, vocabulary]. ``forbidden`` tokens are never chosen.
    """
    answers: list[list[int] | None] = [[] for _ in range(len(continuations))]
    rows = list(range(len(continuations)))  # the answer of each row that is still in the batch
    ended: set[int] = set()
    while True:
        logits[:, list(forbidden)] = -torch.inf
        finite, chosen = logits.amax(dim=-1).isfinite().tolist(), logits.argmax(dim=-1)
        for answer, token, is_finite in zip(rows, chosen.tolist(), finite, strict=True):
            tokens = answers[answer]
            if answer in ended or tokens is None:
                continue
            if not is_finite:
                answers[answer] = None
                ended.add(answer)
                continue
            tokens.append(token)
            if token in stop_ids or len(tokens) == most or has_ended(tokens):
                ended.add(answer)
        remaining = [place for place, answer in enumerate(rows) if answer not in ended]
        if not remaining:
            return answers
        if len(remaining) <= len(rows) // 2:  # copying the states costs about as much as reading them
            continuations.select(remaining)
            rows, chosen = [rows[place] for place in remaining], chosen[remaining]
        logits = continuations.read(chosen[:, None], torch.ones_like(chosen[:, None], dtype=torch.bool))[:, -1]
