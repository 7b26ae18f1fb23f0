"""Requests of the harness answered together: those with the same prompt share it, also for several numbers of pauses.

The harness evaluates one number of pauses after another with the same requests. The first evaluation answers them for
all numbers, and the later ones take their answers from here.

Memory: a batch of prefixes is in the cache once, and a batch of answers has a copy of its part of it. A batch of
answers has as many rows as a batch of prompts, or more while its positions are at most ``POSITIONS_AT_ONCE``. Both are
released before the next batch of prefixes is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch

from pause_megatron.downstream.branched_rows import BranchedRows
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
            first = cache.logits[torch.tensor(rows, device=cache.logits.device), cache.places(branches)]
            tokens = torch.tensor([branch.target[0] for branch in branches], device=first.device)
            totals, greedy = _token_scores(first, tokens)
            longer = [place for place, branch in enumerate(branches) if len(branch.target) > 1]
            longer.sort(key=lambda place: len(branches[place].target))
            for chosen in self._chunks(longer, cache, branches, lambda branch: len(branch.target) - 1):
                continued = [branches[place] for place in chosen]
                more, are_greedy = _rest(cache, [rows[place] for place in chosen], continued)
                index = torch.tensor(chosen, device=first.device)
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
            branched = folder.branching_problem is None and len(rows) > len(batch)
            decode: type[BranchedRows | Continuations] = BranchedRows if branched else Continuations
            order = sorted(range(len(rows)), key=lambda place: branches[place].kept)
            chunks = self._chunks(order, cache, branches, lambda _: most)
            for chosen in self._branched_chunks(rows, cache, most) if branched else chunks:
                part, indices = [branches[place] for place in chosen], [rows[place] for place in chosen]
                logits = cache.logits[torch.tensor(indices, device=cache.logits.device), cache.places(part)]
                answers = decode_greedily(
                    decode(cache, indices, part, most),
                    logits,
                    most=most,
                    forbidden=forbidden,
                    stop_ids=folder.stop_ids,
                    stop_texts=stop_texts,
                )
                found.update(zip((branch.key for branch in part), answers, strict=True))
        return found

    @staticmethod
    def _branched_chunks(rows: list[int], cache: PrefixCache, most: int) -> Iterator[list[int]]:
        """Divide the branches of prefixes ``rows``, by their index, so that each part has few of every prefix."""
        places: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row, []).append(place)
        widest = max(map(len, places.values()))
        room = POSITIONS_AT_ONCE // len(places) - cache.batch.input_ids.shape[1]
        parts = -(-widest // max(1, room // most))
        for part in range(parts):
            if chosen := [place for of_row in places.values() for place in of_row[part::parts]]:
                yield chosen

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

    def _chunks(
        self, places: list[int], cache: PrefixCache, branches: list[Branch], tokens: Callable[[Branch], int]
    ) -> Iterator[list[int]]:
        """Divide ``places``, the indices of branches, into batches of answers; ``tokens`` returns what a branch reads.

        Branches must be in ascending order of ``tokens``.
        """
        if not places:
            return
        longest = tokens(branches[places[-1]])
        width = cache.batch.input_ids.shape[1] + longest
        most = POSITIONS_AT_ONCE // width
        if branches[places[0]].target:
            most = min(most, _LOGITS_AT_ONCE // longest)
        most = max(self._batch_size, most)
        for start in range(0, len(places), most):
            yield places[start : start + most]


def _branches(prefixes: Sequence[SharedPrefix]) -> tuple[list[int], list[Branch]]:
    """Return all branches, and the index of the prefix of each."""
    pairs = [(row, branch) for row, prefix in enumerate(prefixes) for branch in prefix.branches]
    return [row for row, _ in pairs], [branch for _, branch in pairs]


def _rest(cache: PrefixCache, rows: list[int], branches: list[Branch]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of the tokens after the first of each branch, and whether all of them are likeliest.

    Both have the shape [branches].
    """
    device = cache.logits.device
    width = max(len(branch.target) for branch in branches)
    padded = [[*branch.target, *[-1] * (width - len(branch.target))] for branch in branches]
    tokens = torch.tensor(padded, device=device)  # [branches, tokens]; -1 is padding
    read, expected = tokens[:, :-1], tokens[:, 1:]
    real = expected >= 0
    logits = Continuations(cache, rows, branches, width - 1).read(read.clamp(min=0), real)
    scores, greedy = _token_scores(logits, expected.clamp(min=0))
    return scores.where(real, 0).sum(dim=1), (greedy | ~real).all(dim=1)


def _token_scores(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each of ``tokens``, [...], and whether it is the likeliest one.

    ``logits``, [..., vocabulary], are overwritten: the memory of a second tensor takes longer than the arithmetic.
    """
    likeliest = logits.argmax(dim=-1, keepdim=True)
    highest = logits.gather(-1, likeliest)
    chosen = logits.gather(-1, tokens[..., None]) - highest
    scores = chosen - logits.sub_(highest).exp_().sum(dim=-1, keepdim=True).log()
    return scores.squeeze(-1), likeliest.squeeze(-1) == tokens
