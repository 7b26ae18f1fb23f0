"""Prefixes that are read once for several numbers of pauses and several answers.

With causal attention, the states of ``a b P P P P`` contain those of ``a b P P``. One forward pass reads each context
with its longest run of pauses into a cache. An answer after fewer pauses attends to its own part of the cache, and its
positions continue from there. For example, with ``.`` where the cache is masked::

    a b P P P P | c d
    a b P P . . | c d
    a b P P . . | e f g

Attention in both directions changes the states of the context with the number of pauses. Then a prefix is read once for
each number, and only its answers share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from pause_megatron.downstream.batching import align
from pause_megatron.pauses.prompts import PausedTokens


@dataclass(frozen=True)
class Branch:
    """One answer to score or decode after a part of a shared prefix."""

    key: tuple[int, int]
    """Number of the pausing, and of its request."""
    kept: int
    """Pauses of the shared run that the answer attends to."""
    target: Sequence[int] = ()
    """Tokens to score; empty if they are decoded."""


@dataclass(frozen=True)
class SharedPrefix:
    """A context, its longest run of pauses, and the answers after parts of the run."""

    context: PausedTokens
    run: PausedTokens
    branches: list[Branch] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.context) + len(self.run)


def shared_prefixes(branches: Sequence[tuple[PausedTokens, Branch]]) -> list[SharedPrefix]:
    """Group branches by the prefix that they can share, longest prefix first.

    Each branch comes with its complete prefix, shape [tokens], whose last ``kept`` tokens are its run of pauses.
    """
    by_context: dict[tuple[bytes, bytes], list[SharedPrefix]] = {}
    for prefix, branch in sorted(branches, key=lambda pair: -pair[1].kept):  # the longest run of a context comes first
        border = len(prefix) - branch.kept
        context, run = (
            PausedTokens(prefix.ids[part], prefix.is_pause[part]) for part in (slice(border), slice(border, None))
        )
        groups = by_context.setdefault((context.ids.tobytes(), context.is_pause.tobytes()), [])
        matching = (each for each in groups if (each.run.ids[: branch.kept] == run.ids).all())
        if (shared := next(matching, None)) is None:
            groups.append(shared := SharedPrefix(context, run))
        shared.branches.append(branch)
    return sorted((shared for groups in by_context.values() for shared in groups), key=lambda shared: -len(shared))


class PrefixCache:
    """States of a batch of prefixes, and the logits after each number of pauses that a branch keeps."""

    def __init__(
        self,
        model: PreTrainedModel,
        prefixes: Sequence[SharedPrefix],
        pad_id: int,
        *,
        bidirectional: bool = False,
        shares_positions: bool = False,
    ) -> None:
        """Read ``prefixes``; with ``bidirectional``, contexts attend in both directions and must have empty runs."""
        assert not (bidirectional and any(len(prefix.run) for prefix in prefixes))
        contexts, runs = [prefix.context for prefix in prefixes], [prefix.run for prefix in prefixes]
        self.model = model
        self.batch = align(contexts, runs, pad_id, shares_positions=shares_positions).to(model.device)
        self.cache = DynamicCache(config=model.config)
        kept = sorted({branch.kept for prefix in prefixes for branch in prefix.branches})
        self._place = {number: place for place, number in enumerate(kept)}
        inputs = self.batch.model_inputs(bidirectional=bidirectional, dtype=model.dtype)
        inputs["logits_to_keep"] = torch.tensor(kept, device=model.device) + self.batch.border - 1
        # Logits at the last position of each part of a run, [prefixes x numbers of pauses, vocabulary].
        self.logits = model(**inputs, past_key_values=self.cache, use_cache=True).logits.float().flatten(0, 1)

    def places(self, rows: Sequence[int], branches: Sequence[Branch]) -> torch.Tensor:
        """Return the index in ``logits`` of those that predict the first token of each branch of prefix ``rows[i]``."""
        pairs = zip(rows, branches, strict=True)
        places = [row * len(self._place) + self._place[branch.kept] for row, branch in pairs]
        return torch.tensor(places, device=self.model.device)

    def parts(self, rows: torch.Tensor, branches: Sequence[Branch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the columns of prefix ``rows[i]`` that ``branches[i]`` attends to, and the position of its next token.

        They are [branches, columns], without columns that all leave out, and [branches].
        """
        batch, kept = self.batch, torch.tensor([branch.kept for branch in branches], device=rows.device)
        length = batch.border + int(kept.max())
        columns = torch.arange(length, device=rows.device)
        real = batch.real[rows, :length] & (columns < batch.border + kept[:, None])
        counted = real & ~batch.is_pause[rows, :length] if batch.shares_positions else real
        return real, counted.sum(dim=1)

    def roomy_cache(self, rows: Sequence[int], length: int, room: int) -> DynamicCache:
        """Return a copy of the states of ``rows`` in the first ``length`` columns, with room for more columns."""
        everything = list(rows) == list(range(len(self.batch.input_ids)))  # a slice copies once, an index twice
        index = slice(None) if everything else torch.tensor(rows, device=self.model.device)
        cache = DynamicCache()
        cache.layers = [RoomyLayer(layer, index, length, room) for layer in self.cache.layers]
        return cache


class Continuations:
    """Branches that are read as a batch; each has its own copy of a prefix's states, and room for its tokens."""

    selects_free = False
    """Whether :meth:`select` copies no states."""

    def __init__(self, prefixes: PrefixCache, rows: Sequence[int], branches: Sequence[Branch], room: int) -> None:
        """Continue prefix ``rows[i]`` as ``branches[i]``, by at most ``room`` tokens each."""
        real, self._positions = prefixes.parts(torch.tensor(rows, device=prefixes.model.device), branches)
        self._length = real.shape[1]
        self._model = prefixes.model
        self._real = torch.nn.functional.pad(real, (0, room))
        self._cache = prefixes.roomy_cache(rows, self._length, room)

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, ids: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read ``ids``, [rows, tokens], of which those not ``real`` are padding at the end of a row.

        Returns the logits after all of them, [rows x tokens, vocabulary], and the index of each token's.
        """
        width = ids.shape[1]
        self._real[:, self._length : self._length + width] = real
        self._length += width
        positions = self._positions[:, None] + torch.arange(width, device=ids.device)
        logits: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=self._real[:, : self._length].long(),
            position_ids=positions.where(real, 0),  # padding can be beyond the context
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=width,
        ).logits
        self._positions = self._positions + real.sum(dim=1)
        return logits.flatten(0, 1), torch.arange(ids.numel(), device=ids.device).view_as(ids)

    def read_next(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a token of each row, [rows]; returns the logits after it, [rows, vocabulary]."""
        ids = tokens[:, None]
        logits, _ = self.read(ids, torch.ones_like(ids, dtype=torch.bool))
        return logits.float()

    def select(self, rows: Sequence[int]) -> None:
        """Keep only ``rows``, in this order."""
        index = torch.tensor(rows, device=self._real.device)
        self._real, self._positions = self._real[index], self._positions[index]
        self._cache.batch_select_indices(index)


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer with room for the tokens to come, so that a step does not copy all of them."""

    def __init__(self, layer: CacheLayerMixin, rows: torch.Tensor | slice, length: int, room: int) -> None:
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device = layer.keys.dtype, layer.keys.device
        self._all: list[torch.Tensor] = []
        for states in (layer.keys, layer.values):  # [batch, heads, positions, head_dim]
            chosen = states[rows, :, :length]
            count, heads, _, width = chosen.shape
            complete = chosen.new_empty(count, heads, length + room, width)
            complete[:, :, :length] = chosen
            self._all.append(complete)
        self._show(length)
        self.is_initialized = True

    def _show(self, length: int) -> None:
        self.keys, self.values = (states[:, :, :length] for states in self._all)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens, [batch, heads, tokens, head_dim]; returns all states."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for states, new in zip(self._all, (key_states, value_states), strict=True):
            states[:, :, start:end] = new
        self._show(end)
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the rows ``indices``."""
        length = self.get_seq_length()
        self._all = [states[indices] for states in self._all]
        self._show(length)
