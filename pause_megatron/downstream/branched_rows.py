"""Several answers after parts of the same prefix, without a copy of its states for each.

The answers of a prefix are in one row. A mask separates them, and each has its own positions. For example, the answers
``c d`` after no pauses and ``e f`` after two, decoded in two steps and scored in one::

    a b P P | c e | d f      ``d`` attends to a b c, and ``f`` to a b P P e
    a b P P | c d e f
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pause_megatron.downstream.shared_prefixes import Branch, PrefixCache

_NOBODY = -1
"""Owner of a column of padding."""


def pack(branches: Sequence[int], prefixes: Sequence[int], tokens: Sequence[int], capacity: int) -> list[list[int]]:
    """Divide ``branches``, given by their index, over rows, each with branches of one prefix.

    ``prefixes`` and ``tokens`` have the index of each branch's prefix, and the number of tokens to read after it. A row
    has at most ``capacity`` tokens, or a single branch. The rows of a prefix have about the same number of tokens.
    """
    of_prefix: dict[int, list[int]] = {}
    for branch in branches:
        of_prefix.setdefault(prefixes[branch], []).append(branch)
    rows = []
    for of_row in of_prefix.values():
        total = sum(tokens[branch] for branch in of_row)
        share = total / -(-total // max(1, capacity))
        row: list[int] = []
        used = 0
        for branch in of_row:
            if row and (used >= share or used + tokens[branch] > capacity):
                rows.append(row)
                row, used = [], 0
            row.append(branch)
            used += tokens[branch]
        rows.append(row)
    return rows


class BranchedRows:
    """Branches that are read as a batch with several in a row; the interface is that of ``Continuations``."""

    selects_free = True
    """Whether :meth:`select` copies no states."""

    def __init__(self, prefixes: PrefixCache, used: Sequence[int], rows: Sequence[Sequence[Branch]], room: int) -> None:
        """Continue prefix ``used[i]`` as each of the branches ``rows[i]``, by at most ``room`` tokens in a row."""
        self._model, device = prefixes.model, prefixes.model.device
        branches = [branch for row in rows for branch in row]
        self._row_of = torch.repeat_interleave(torch.tensor([len(row) for row in rows], device=device))
        prefix_of = torch.tensor(used, device=device)[self._row_of]
        self._parts, self._positions = prefixes.parts(prefix_of, branches)  # [branches, columns], [branches]
        self._branches = torch.arange(len(branches), device=device)  # number of each branch that is still read
        length = self._parts.shape[1]
        self._owners = torch.empty(len(rows), 0, dtype=torch.long, device=device)  # branch of each column read
        self._cache = prefixes.roomy_cache(used, length, room)

    def __len__(self) -> int:
        return len(self._branches)

    def read(self, ids: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read ``ids``, [branches, tokens], of which those not ``real`` are padding at the end of a branch.

        Returns the logits after all columns, [columns of all rows, vocabulary], and the index of each real token's.
        """
        rows = self._row_of[self._branches]
        branch, token = real.nonzero(as_tuple=True)
        row = rows[branch]
        lengths = torch.zeros(len(self._owners), dtype=torch.long, device=ids.device)
        lengths.index_add_(0, row, torch.ones_like(row))
        by_row = row.argsort(stable=True)
        starts = lengths.cumsum(0) - lengths
        slot = torch.empty_like(row)  # the column of each token among those of its row
        slot[by_row] = torch.arange(len(row), device=row.device) - starts[row[by_row]]
        owners = torch.full((len(self._owners), int(lengths.max())), _NOBODY, device=ids.device)
        owners[row, slot] = self._branches[branch]
        columns, positions = torch.zeros_like(owners), torch.zeros_like(owners)
        columns[row, slot] = ids[branch, token]
        positions[row, slot] = self._positions[self._branches[branch]] + token
        self._owners = torch.cat([self._owners, owners], dim=1)
        logits: torch.Tensor = self._model(
            input_ids=columns,
            attention_mask=self._mask(owners),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=columns.shape[1],
        ).logits
        self._positions[self._branches] += real.sum(dim=1)
        places = torch.zeros_like(ids)
        places[branch, token] = row * columns.shape[1] + slot
        return logits.flatten(0, 1), places

    def read_next(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a token of each branch, [branches]; returns the logits after it, [branches, vocabulary]."""
        ids = tokens[:, None]
        logits, places = self.read(ids, torch.ones_like(ids, dtype=torch.bool))
        return logits[places[:, 0]].float()

    def _mask(self, owners: torch.Tensor) -> torch.Tensor:
        """Additive mask of the newest columns, which are of ``owners``, [rows, 1, newest columns, all columns]."""
        prefix = self._parts[owners.clamp(min=0)] & (owners != _NOBODY)[..., None]
        newest = torch.arange(self._owners.shape[1], device=owners.device)[-owners.shape[1] :]
        earlier = torch.arange(self._owners.shape[1], device=owners.device) <= newest[:, None]
        own = (owners[:, :, None] == self._owners[:, None, :]) & earlier  # padding attends to itself
        dtype = self._model.dtype
        blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=owners.device)
        return torch.where(torch.cat([prefix, own], dim=2), torch.zeros_like(blocked), blocked)[:, None]

    def select(self, branches: Sequence[int]) -> None:
        """Keep only ``branches``, in this order."""
        self._branches = self._branches[torch.tensor(branches, device=self._branches.device)]
        used = self._row_of[self._branches].unique()
        if len(used) <= len(self._owners) // 2:  # copying the states costs about as much as reading them
            place = torch.zeros(len(self._owners), dtype=torch.long, device=used.device)
            place[used] = torch.arange(len(used), device=used.device)
            self._row_of, self._owners = place[self._row_of], self._owners[used]
            self._cache.batch_select_indices(used)
