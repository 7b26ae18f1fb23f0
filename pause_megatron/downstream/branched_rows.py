"""Decoding of several answers after parts of the same prefix, without a copy of its states for each.

The answers of a prefix are in one row. A mask separates them, and each has its own positions. For example, the answers
``c d`` after no pauses and ``e f`` after two, in two steps::

    a b P P | c e | d f      ``d`` attends to a b c, and ``f`` to a b P P e
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from pause_megatron.downstream.shared_prefixes import Branch, PrefixCache, RoomyLayer

_NOBODY = -1
"""Owner of a column of padding."""


class BranchedRows:
    """Branches that are decoded as a batch with a row for each prefix; the interface is that of ``Continuations``."""

    selects_free = True
    """Whether :meth:`select` copies no states."""

    def __init__(self, prefixes: PrefixCache, rows: Sequence[int], branches: Sequence[Branch], room: int) -> None:
        """Continue prefix ``rows[i]`` as ``branches[i]``, by at most ``room`` tokens each."""
        self._model, device = prefixes.model, prefixes.model.device
        used, row_of = torch.tensor(rows, device=device).unique(return_inverse=True)
        self._parts, self._positions = prefixes.parts(used[row_of], branches)  # [branches, prefix columns], [branches]
        self._row_of = row_of
        self._branches = torch.arange(len(branches), device=device)  # number of each branch that is still decoded
        length, widest = self._parts.shape[1], int(row_of.bincount().max())
        self._owners = torch.empty(len(used), 0, dtype=torch.long, device=device)  # branch of each decoded column
        self._cache = DynamicCache()
        self._cache.layers = [RoomyLayer(layer, used, length, room * widest) for layer in prefixes.cache.layers]

    def __len__(self) -> int:
        return len(self._branches)

    def read_next(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a token of each branch, [branches]; returns the logits after it, [branches, vocabulary]."""
        rows, branches = self._row_of[self._branches], self._branches
        same_row = (rows[:, None] == rows).tril(-1)
        slots = same_row.sum(dim=1)  # the place of each branch among those of its row
        owners = torch.full((len(self._owners), int(slots.max()) + 1), _NOBODY, device=tokens.device)
        owners[rows, slots] = branches
        ids, positions = torch.zeros_like(owners), torch.zeros_like(owners)
        ids[rows, slots], positions[rows, slots] = tokens, self._positions[branches]
        self._owners = torch.cat([self._owners, owners], dim=1)
        logits: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=self._mask(owners),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=ids.shape[1],
        ).logits
        self._positions[branches] += 1
        return logits[rows, slots].float()

    def _mask(self, owners: torch.Tensor) -> torch.Tensor:
        """Additive mask of the newest columns, which are of ``owners``, [rows, 1, newest columns, all columns]."""
        prefix = self._parts[owners.clamp(min=0)] & (owners != _NOBODY)[..., None]
        decoded = owners[:, :, None] == self._owners[:, None, :]  # padding attends to padding, at least to itself
        dtype = self._model.dtype
        blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=owners.device)
        return torch.where(torch.cat([prefix, decoded], dim=2), torch.zeros_like(blocked), blocked)[:, None]

    def select(self, branches: Sequence[int]) -> None:
        """Keep only ``branches``, in this order."""
        self._branches = self._branches[torch.tensor(branches, device=self._branches.device)]
        used = self._row_of[self._branches].unique()
        if len(used) <= len(self._owners) // 2:  # copying the states costs about as much as reading them
            place = torch.zeros(len(self._owners), dtype=torch.long, device=used.device)
            place[used] = torch.arange(len(used), device=used.device)
            self._row_of, self._owners = place[self._row_of], self._owners[used]
            self._cache.batch_select_indices(used)
