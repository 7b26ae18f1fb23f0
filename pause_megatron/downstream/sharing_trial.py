"""Trial whether answers of a model can share the states of a prefix; nothing depends on a list of architectures."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from pause_megatron.downstream.branched_rows import BranchedRows
from pause_megatron.downstream.shared_prefixes import Branch, Continuations, PrefixCache, SharedPrefix
from pause_megatron.errors import one_line
from pause_megatron.pauses.prompts import without_pauses

_CONTEXTS, _KEPT, _TARGETS = ((0, 1, 2), (1, 2)), (0, 2), ((5, 6), (6, 7))
"""Two rows of different lengths, as the numbers of their tokens; the first one leaves the run out."""
_RUN = (3, 4)
_NOT_KEPT = "not every layer keeps the keys and values of all positions"
_LONGEST = 4096
"""Columns of the longest cache that is tried; 16 MB for each layer with 1024 values in keys and in values, in bf16."""


@torch.no_grad()
def sharing_problem(model: PreTrainedModel, context_length: int) -> str | None:
    """Return why answers of ``model`` cannot share the states of a prefix; None if they can.

    The layers must keep the states of all positions. The logits of a continuation after a part of a prefix must be
    those of reading everything at once, however long the part is that it leaves out, and later positions, up to
    ``context_length``, must not change the states of earlier ones.
    """
    try:
        return _problem_of_layers(DynamicCache(config=model.config)) or _problem_of_logits(model, context_length)
    except Exception as error:  # an architecture can fail anywhere on a cache or mask that it does not know
        return f"it cannot continue from a part of a cache ({type(error).__name__}: {one_line(error)[:120]})"


@torch.no_grad()
def branching_problem(model: PreTrainedModel) -> str | None:
    """Return why several answers of ``model`` cannot be read in one row, under a mask; None if they can.

    ``model`` must have no :func:`sharing_problem`.
    """
    try:
        token = _tokens(model)
        answers = [[token[each] for each in answer] for answer in _TARGETS]
        context, run = ([token[each] for each in part] for part in (_CONTEXTS[0], _RUN))
        branches = [Branch((0, row), kept) for row, kept in enumerate(_KEPT)]
        shared = SharedPrefix(without_pauses(context), without_pauses(run), branches)
        cache, tokens = PrefixCache(model, [shared], pad_id=0), torch.tensor(answers, device=model.device)
        by_step, at_once = (BranchedRows(cache, [0], [branches], room=tokens.numel()) for _ in range(2))
        decoded = torch.stack([by_step.read_next(step) for step in tokens.T], dim=1)  # [branches, tokens, vocabulary]
        logits, places = at_once.read(tokens, torch.ones_like(tokens, dtype=torch.bool))
        for row, kept in enumerate(_KEPT):
            text = [*context, *run[:kept], *answers[row]]
            expected = _read(model, text, list(range(len(text))))[-2:]
            for found in (decoded[row], logits[places[row]]):
                if not float((found - expected).abs().max()) <= _tolerance(expected):
                    return "its logits under a mask differ from those of reading everything"
    except Exception as error:  # an architecture can fail anywhere on a mask that it does not know
        return f"it does not take a mask ({type(error).__name__}: {one_line(error)[:120]})"
    return None


def _tokens(model: PreTrainedModel) -> list[int]:
    rows = model.get_input_embeddings().num_embeddings
    return [rows * part // 9 for part in range(1, 9)]


def _tolerance(logits: torch.Tensor) -> float:
    """A part of the difference between the logits after the last two tokens; ``logits`` are [tokens, vocabulary]."""
    difference = float((logits[-1] - logits[-2]).abs().max())
    return difference * (1e-3 if logits.dtype == torch.float32 else 0.1)


def _problem_of_layers(cache: DynamicCache) -> str | None:
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return _NOT_KEPT
    return None


def _problem_of_logits(model: PreTrainedModel, context_length: int) -> str | None:
    token = _tokens(model)
    texts = [
        [token[each] for each in (*_CONTEXTS[row], *_RUN[: _KEPT[row]], *_TARGETS[row])] for row in range(len(_KEPT))
    ]
    expected = [_read(model, text, list(range(len(text)))) for text in texts]
    tolerance = min(map(_tolerance, expected))
    for hole in dict.fromkeys((0, max(0, min(context_length, _LONGEST) - len(texts[1]) - len(_CONTEXTS[0])))):
        for row, (at_prefix, continued) in enumerate(_continued(model, token, hole)):
            found = torch.cat([at_prefix[None], continued])
            if not float((found - expected[row][-3:]).abs().max()) <= tolerance:
                return "its logits after a part of a cache differ from those of reading everything"
    far = [*range(len(texts[0]) - 1), context_length - 1]  # the last token is at the end of the context
    if not float((_read(model, texts[0], far)[:-1] - expected[0][:-1]).abs().max()) <= tolerance:
        return "the length of a text changes the states of its first tokens"
    return None


def _read(model: PreTrainedModel, ids: list[int], positions: list[int]) -> torch.Tensor:
    """Logits after each token, [tokens, vocabulary]."""
    text, places = (torch.tensor([each], device=model.device) for each in (ids, positions))
    inputs = {"input_ids": text, "attention_mask": torch.ones_like(text), "position_ids": places}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits[0]
    return logits


def _continued(model: PreTrainedModel, token: list[int], hole: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits after each prefix, [vocabulary], and after each token of its target, [tokens, vocabulary].

    ``hole`` masked columns are between the context and the run.
    """
    branches = [Branch((0, row), kept, [token[each] for each in _TARGETS[row]]) for row, kept in enumerate(_KEPT)]
    run = without_pauses([token[each] for each in _RUN])
    contexts = [without_pauses([token[each] for each in context]) for context in _CONTEXTS]
    pairs = zip(contexts, branches, strict=True)
    prefixes = PrefixCache(model, [SharedPrefix(context, run, [branch]) for context, branch in pairs], pad_id=0)
    if _problem_of_layers(prefixes.cache) or not all(layer.get_seq_length() for layer in prefixes.cache.layers):
        raise ValueError(_NOT_KEPT)
    _add_hole(prefixes, hole)
    ids = torch.tensor([branch.target for branch in branches], device=model.device)
    first = prefixes.logits[prefixes.places([0, 1], branches)]
    logits, places = Continuations(prefixes, [0, 1], branches, 2).read(ids, torch.ones_like(ids, dtype=torch.bool))
    return [(first[row], logits[places[row]]) for row in range(2)]


def _add_hole(prefixes: PrefixCache, columns: int) -> None:
    """Put masked ``columns`` before the runs, as if they were the rest of a longer prefix."""
    batch, border = prefixes.batch, prefixes.batch.border

    def widened(states: torch.Tensor, dim: int) -> torch.Tensor:
        size = list(states.shape)
        size[dim] = columns
        before, after = states.split([border, states.shape[dim] - border], dim=dim)
        return torch.cat([before, states.new_zeros(size), after], dim=dim)

    ids, real, is_pause = (widened(each, 1) for each in (batch.input_ids, batch.real, batch.is_pause))
    prefixes.batch = replace(batch, input_ids=ids, real=real, is_pause=is_pause, border=border + columns)
    for layer in prefixes.cache.layers:
        layer.keys, layer.values = widened(layer.keys, -2), widened(layer.values, -2)
