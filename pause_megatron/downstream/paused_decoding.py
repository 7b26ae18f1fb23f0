"""Decoding with pauses after every token, or with pauses that share positions.

With pauses after every token, the model reads a token with its pauses before it predicts the next one. Stock
``generate`` chooses the tokens and sees only those, so sampling, beams, stop tokens and limits are its own. This module
changes what the model reads at each step: the part of the complete text, with its pauses and position indices, that is
not in the cache yet. For example, with 2 pauses after every token and ``a b`` as the prompt, the model reads ``a P P b
P P``, then ``c P P`` when ``c`` was chosen.

Rows of a batch can be at different places of a group if pauses follow only every second or third token. A row without
pauses at a step gets padding on the left of its token then, so that the last position predicts the next token of every
row::

    row 0:  c P P | . . d | e P P
    row 1:  . . c | d P P | . . e
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from pause_megatron.downstream.batching import BorderBatch
from pause_megatron.pauses.pause_ids import ids_of_run
from pause_megatron.pauses.prompts import Interleaving


class PausedReading:
    """What a model reads after each choice of :meth:`generate` that continues ``prefixes``."""

    def __init__(self, prefixes: BorderBatch, interleaving: Interleaving | None) -> None:
        """Continue ``prefixes``, a batch without targets, whose rows have their pauses already.

        Without ``interleaving`` the chosen tokens have no pauses.
        """
        self._prefixes = prefixes
        self._interleaving = interleaving or Interleaving(num_pauses=0, interval=1, pause_ids=None)

    def text(self, ids: torch.Tensor) -> BorderBatch:
        """Return everything that the model reads of ``ids``, [rows, sequence]: the prefixes, then the chosen tokens.

        With beams, or several sequences for a prompt, a prompt has several adjacent rows. The result has the pauses of
        the chosen tokens: [rows, longer sequence].
        """
        prefixes, k = self._prefixes, self._interleaving.num_pauses
        copies = len(ids) // len(prefixes.input_ids)
        real, is_pause = (mask.repeat_interleave(copies, dim=0) for mask in (prefixes.real, prefixes.is_pause))
        chosen = ids[:, prefixes.border :]
        rows, steps = chosen.shape
        # Number of each chosen token in its text, from 1, [rows, steps]; pauses follow the last one of a group.
        number = (real & ~is_pause).sum(dim=1, keepdim=True) + torch.arange(1, steps + 1, device=ids.device)
        pauses = number % self._interleaving.interval == 0
        is_chosen = torch.zeros(rows, steps, 1 + k, dtype=torch.bool, device=ids.device)
        is_chosen[..., 0] = pauses
        is_chosen[..., -1] |= ~pauses  # a token without pauses has padding before it
        is_real = is_chosen | pauses[..., None]
        tokens = chosen[..., None].expand(rows, steps, 1 + k)
        if k and self._interleaving.pause_ids is not None:
            first, *others = ids_of_run(self._interleaving.pause_ids, k).tolist()  # they follow the token in column 0
            tokens = torch.where(is_chosen, tokens, torch.tensor([first, first, *others], device=ids.device))
        columns = is_real.any(dim=0).flatten()  # without columns in which every row has padding
        return BorderBatch(
            torch.cat([ids[:, : prefixes.border], tokens.flatten(1)[:, columns]], dim=1),
            torch.cat([real, is_real.flatten(1)[:, columns]], dim=1),
            torch.cat([is_pause, (is_real & ~is_chosen).flatten(1)[:, columns]], dim=1),
            prefixes.border,
            prefixes.shares_positions,
        )

    def inputs(
        self, input_ids: torch.Tensor, past_key_values: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of ``forward`` for one step of ``generate``, in place of the model's own method.

        ``generate`` compares its arguments with these names, and its own mask is as long as ``input_ids``.
        """
        text = self.text(input_ids)
        cached = past_key_values.get_seq_length() if past_key_values is not None else 0
        return {
            "input_ids": text.input_ids[:, cached:],
            "attention_mask": text.real.long(),
            "position_ids": text.position_ids[:, cached:],
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache", True),
            "logits_to_keep": 1,
        }


@contextmanager
def reads_pauses(model: PreTrainedModel, prefixes: BorderBatch, interleaving: Interleaving | None) -> Iterator[None]:
    """Make ``model.generate``, inside the block, read ``prefixes`` and what it adds to them with pauses and positions.

    Changes nothing if stock ``generate`` reads the same: without ``interleaving`` and shared positions.
    """
    if not interleaving and not prefixes.shares_positions:
        yield
        return
    model.prepare_inputs_for_generation = PausedReading(prefixes, interleaving).inputs
    try:
        yield
    finally:
        del model.prepare_inputs_for_generation
