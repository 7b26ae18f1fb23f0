"""Requests of the harness answered together: those with the same prompt share it, also for several numbers of pauses.

The harness evaluates one number of pauses after another with the same requests. The first evaluation answers them for
all numbers, and the later ones take their answers from here.

Memory: a batch of prefixes is in the cache once, and each row of a batch of answers has a copy of its part of it. A row
has several answers if the model takes a mask that separates them. A batch of answers has as many rows as a batch of
prompts, or more while its positions are at most ``POSITIONS_AT_ONCE``. Both are released before the next batch of
prefixes is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch.nn.utils.rnn import pad_sequence

from pause_megatron.downstream.branched_rows import BranchedRows, pack
from pause_megatron.downstream.greedy_decoding import Answer, StopTexts, decode_greedily
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.shared_prefixes import Branch, Continuations, PrefixCache, SharedPrefix
from pause_megatron.errors import UserError

POSITIONS_AT_ONCE = 16_384
"""Positions of a batch of answers, with those of their prefixes, beyond which it has no more rows than a batch of
prompts: 0.6 GB of bf16 states in a model with 130M parameters."""
_LOGITS_AT_ONCE = 2048
"""Tokens of a batch of scored answers beyond which it has no more rows than a batch of prompts: 0.25 GB of fp32 logits
for a vocabulary of 32,000."""
_PADDING = -1
"""Token after the end of a target."""
_SCORED_ON_CPU, _SCORED_ON_GPU = 1 << 20, 1 << 26
"""Logits that are scored at a time: 4 MB in fp32, which stay in a CPU's cache between the steps, or 256 MB on a GPU."""

_Answer = TypeVar("_Answer")
Key = tuple[int, int]
"""Number of the pausing, and of its request."""
Score = tuple[float, bool]
"""Log-probability of a continuation, and whether greedy decoding gives it."""


class AnswersAhead:
    """Answers for the numbers of pauses whose turn comes later."""

    def __init__(self, folder: ModelFolder, pausings: Sequence[Pausing]) -> None:
        """Evaluate ``pausings`` in this order."""
        self._folder = folder
        self._joint = [pausing for pausing in pausings if pausing.interleaving(folder) is None]
        self._found: dict[tuple[Pausing, str], tuple[list[Any], list[Any]]] = {}

    @cached_property
    def shares(self) -> bool:
        """Whether the model can continue from a part of a cache; the first use tries it."""
        return self._folder.sharing_problem is None

    def with_later(self, pausing: Pausing) -> list[Pausing]:
        """Return ``pausing`` and those after it that can be evaluated together with it."""
        if pausing not in self._joint or not self.shares:
            return [pausing]
        later = self._joint[self._joint.index(pausing) :]
        return [each for each in later if each.bidirectional == pausing.bidirectional]

    def keep(self, pausing: Pausing, kind: str, arguments: list[Any], answers: list[Any]) -> None:
        """Keep the answers to requests of one kind with ``arguments``; an error is raised when its turn comes."""
        self._found[pausing, kind] = (arguments, answers)

    def take(self, pausing: Pausing, kind: str, arguments: list[Any]) -> list[Any] | None:
        """Return and forget the answers to ``arguments``; None if they are not known. Raises errors among them."""
        known, answers = self._found.pop((pausing, kind), ([], []))
        return raise_errors(answers) if known == arguments and answers else None


def raise_errors(answers: list[_Answer | UserError]) -> list[_Answer]:
    """Return ``answers``; raises the first error among them."""
    for answer in answers:
        if isinstance(answer, UserError):
            raise answer
    return answers  # type: ignore[return-value]


class SharedReader:
    """Scores and decodes the branches of shared prefixes, ``batch_size`` prefixes at a time."""

    def __init__(self, folder: ModelFolder, batch_size: int, *, bidirectional: bool) -> None:
        self._folder = folder
        self._batch_size = batch_size
        self._bidirectional = bidirectional

    @torch.no_grad()
    def scores(self, prefixes: Sequence[SharedPrefix]) -> dict[Key, Score]:
        """Return the score of each branch; not finite if its logits are not."""
        found: dict[Key, Score] = {}
        for batch in self._batches(prefixes):
            cache = self._read(batch)
            rows, branches = _branches(batch)
            first = torch.tensor([branch.target[0] for branch in branches], device=cache.logits.device)
            totals, greedy = _token_scores(cache.logits, cache.places(rows, branches), first)
            further = [len(branch.target) - 1 for branch in branches]
            for chosen, continuations in self._continuations(cache, rows, branches, further):
                targets = _padded([branches[place].target for place in chosen])
                more, are_greedy = _rest(continuations, targets.to(first.device))
                index = torch.tensor(chosen, device=totals.device)
                totals[index] += more
                greedy[index] &= are_greedy
            scores = zip(totals.tolist(), greedy.tolist(), strict=True)
            found.update(zip((branch.key for branch in branches), scores, strict=True))
        return found

    @torch.no_grad()
    def decoded(self, prefixes: Sequence[SharedPrefix], most: int, stop_texts: StopTexts) -> dict[Key, Answer]:
        """Return the answer of each branch, up to ``most`` tokens."""
        found: dict[Key, Answer] = {}
        model, folder = self._folder.model, self._folder
        forbidden = sorted({*(model.generation_config.suppress_tokens or ()), *folder.pause_ids})
        for batch in self._batches(prefixes):
            cache = self._read(batch)
            rows, branches = _branches(batch)
            for chosen, continuations in self._continuations(cache, rows, branches, [most] * len(branches)):
                places = cache.places([rows[place] for place in chosen], [branches[place] for place in chosen])
                answers = decode_greedily(
                    continuations,
                    cache.logits[places],
                    most=most,
                    forbidden=forbidden,
                    stop_ids=folder.stop_ids,
                    stop_texts=stop_texts,
                )
                found.update(zip((branches[place].key for place in chosen), answers, strict=True))
        return found

    def _batches(self, prefixes: Sequence[SharedPrefix]) -> Iterator[Sequence[SharedPrefix]]:
        for start in range(0, len(prefixes), self._batch_size):
            yield prefixes[start : start + self._batch_size]

    def _read(self, batch: Sequence[SharedPrefix]) -> PrefixCache:
        folder = self._folder
        return PrefixCache(
            folder.model,
            batch,
            folder.eod_id,
            bidirectional=self._bidirectional,
            shares_positions=folder.shares_positions,
        )

    def _continuations(
        self, cache: PrefixCache, rows: Sequence[int], branches: Sequence[Branch], tokens: Sequence[int]
    ) -> Iterator[tuple[list[int], Continuations | BranchedRows]]:
        """Divide the branches of prefixes ``rows``, without those that read no ``tokens``, into batches of answers.

        Yields the indices of the branches of a batch, and what reads them in this order.
        """
        width, is_scored = cache.batch.input_ids.shape[1], any(branch.target for branch in branches)
        read = [place for place in range(len(branches)) if tokens[place]]
        units = [[place] for place in read]
        if len(read) > len(prefixes := {rows[place] for place in read}) and self._folder.branching_problem is None:
            capacity = POSITIONS_AT_ONCE // len(prefixes) - width
            if is_scored:
                capacity = min(capacity, _LOGITS_AT_ONCE // self._batch_size)
            units = pack(read, rows, tokens, capacity)
        sized = [(sum(tokens[place] for place in unit), unit) for unit in units]
        sized.sort(key=lambda each: (each[0], max(branches[place].kept for place in each[1])))
        while sized:
            room = sized[-1][0]
            most = POSITIONS_AT_ONCE // (width + room)
            if is_scored:
                most = min(most, _LOGITS_AT_ONCE // room)
            most = max(self._batch_size, most)
            batch = [unit for _, unit in sized[-most:]]
            del sized[-most:]
            yield [place for unit in batch for place in unit], _reader(cache, rows, branches, batch, room)


def _reader(
    cache: PrefixCache, rows: Sequence[int], branches: Sequence[Branch], units: Sequence[Sequence[int]], room: int
) -> Continuations | BranchedRows:
    """Return what reads ``units`` of branches, by their index, each in a row with room for as many tokens."""
    used = [rows[unit[0]] for unit in units]
    by_row = [[branches[place] for place in unit] for unit in units]
    if all(len(row) == 1 for row in by_row):
        return Continuations(cache, used, [branch for [branch] in by_row], room)
    return BranchedRows(cache, used, by_row, room)


def _branches(prefixes: Sequence[SharedPrefix]) -> tuple[list[int], list[Branch]]:
    """Return all branches, and the index of the prefix of each."""
    pairs = [(row, branch) for row, prefix in enumerate(prefixes) for branch in prefix.branches]
    return [row for row, _ in pairs], [branch for _, branch in pairs]


def _padded(targets: Sequence[Sequence[int]]) -> torch.Tensor:
    """``targets`` with :data:`_PADDING` after the shorter ones, [targets, tokens]."""
    return pad_sequence([torch.tensor(target) for target in targets], batch_first=True, padding_value=_PADDING)


def _rest(continuations: Continuations | BranchedRows, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of the tokens after the first of each target, and whether all of them are likeliest.

    ``tokens``: [targets, tokens], with padding; both results: [targets].
    """
    read, expected = tokens[:, :-1], tokens[:, 1:]
    real = expected != _PADDING
    logits, places = continuations.read(read.clamp(min=0), real)
    scores, greedy = torch.zeros(real.shape, device=tokens.device), torch.ones_like(real)
    scores[real], greedy[real] = _token_scores(logits, places[real], expected[real])
    return scores.sum(dim=1), greedy.all(dim=1)


def _token_scores(
    logits: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each of ``tokens``, [tokens], and whether it is the likeliest one.

    The logits of token ``i`` are ``logits[places[i]]``.
    """
    most = _SCORED_ON_CPU if logits.device.type == "cpu" else _SCORED_ON_GPU
    at_once = max(1, most // logits.shape[-1])
    scores, greedy = torch.empty(len(tokens), device=tokens.device), torch.empty_like(tokens, dtype=torch.bool)
    for start in range(0, len(tokens), at_once):
        part = slice(start, start + at_once)
        own = logits[places[part]].float()
        scores[part] = own.gather(-1, tokens[part, None]).squeeze(-1) - own.logsumexp(dim=-1)
        greedy[part] = own.argmax(dim=-1) == tokens[part]
    return scores, greedy
