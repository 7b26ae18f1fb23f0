"""Requests of the harness that are decoded together, with the texts of its own ``hf`` model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from pause_megatron.downstream.generation import bad_logits
from pause_megatron.downstream.greedy_decoding import Ending, StopTexts, is_greedy
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.shared_prefixes import Branch, shared_prefixes
from pause_megatron.downstream.shared_requests import Key, SharedReader
from pause_megatron.errors import UserError

DecodedRequest = tuple[str, dict[str, Any]]
"""Context, and the task's ``generation_kwargs``."""


@dataclass(frozen=True)
class DecodingGroup:
    """Requests that are decoded with the same settings."""

    requests: dict[int, DecodedRequest]
    """Requests by their number, in the order in which ``hf`` decodes them."""
    ids: dict[int, list[int]]
    """Tokens of each context."""
    most: int
    """Most tokens of an answer."""
    until: list[str]
    """Stop texts."""

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """Yield the numbers of the requests that ``hf`` decodes as one batch."""
        numbers = list(self.requests)
        for start in range(0, len(numbers), batch_size):
            yield numbers[start : start + batch_size]


def greedy_groups(model: HFLM, requests: Sequence[DecodedRequest]) -> list[DecodingGroup] | None:
    """Group ``requests`` by their settings; None if some settings are not those of greedy decoding."""
    groups: dict[str, DecodingGroup] = {}
    ids = [model.tok_encode(context) for context, _ in requests]
    eos = model.tok_decode([model.eot_token_id], skip_special_tokens=False)
    for index in sorted(range(len(requests)), key=lambda index: (-len(ids[index]), requests[index][0])):
        _, settings = requests[index]
        name = repr(sorted(settings.items()))
        if name not in groups:
            rest: dict[str, Any] = dict(normalize_gen_kwargs(settings, model.max_gen_toks))
            until, most = handle_stop_sequences(rest.pop("until", None), eos=eos), rest.pop("max_gen_toks")
            if not is_greedy(model.model, rest):
                return None
            groups[name] = DecodingGroup({}, {}, most, until)
        groups[name].requests[index], groups[name].ids[index] = requests[index], ids[index]
    return list(groups.values())


def decode_group(
    model: HFLM,
    folder: ModelFolder,
    group: DecodingGroup,
    pausings: Sequence[Pausing],
    decode_unshared: Callable[[Pausing, list[DecodedRequest]], list[str]],
) -> dict[Key, str | UserError]:
    """Return the text of each request of ``group`` with each of ``pausings``.

    ``decode_unshared`` is stock ``generate``: it decodes a batch again if a text of it depends on the other ones.

    Raises the first pausing's :class:`UserError` for pauses that leave no room; for a later one, it is the answer.
    """
    answers: dict[Key, str | UserError] = {}
    branches = []
    for index, (context, _) in group.requests.items():
        for number, pausing in enumerate(pausings):
            try:
                prefix = pausing.prefix(folder, context, group.ids[index], model.max_length - group.most)
            except UserError as error:
                if not number:
                    raise
                answers[number, index] = error
            else:
                branches.append((prefix, Branch((number, index), pausing.shared_run)))
    reader = SharedReader(folder, model.batch_size, bidirectional=pausings[0].bidirectional)
    stop_texts = StopTexts(model.tokenizer, model.tok_decode, group.until)
    decoded = reader.decoded(shared_prefixes(branches), group.most, stop_texts)
    for key, answer in decoded.items():
        if answer.ending == Ending.BAD_LOGITS:
            answers[key] = bad_logits(folder, group.requests[key[1]][0])
        else:
            answers[key] = postprocess_generated_text(model.tok_decode(answer.tokens), group.until, None)
    dependent = {key for key, answer in decoded.items() if answer.ending == Ending.DEPENDS}
    for number, pausing in enumerate(pausings):
        for batch in group.batches(model.batch_size):
            keys = [(number, index) for index in batch]
            if not dependent.isdisjoint(keys) and not any(isinstance(answers[key], UserError) for key in keys):
                texts = decode_unshared(pausing, [group.requests[index] for index in batch])
                answers |= zip(keys, texts, strict=True)
    return answers
