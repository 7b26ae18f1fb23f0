"""What becomes of the embedding of ``<pause>``, the one vector that pause-training adds to a model.

It is the row of ``<pause>`` in the word embeddings at the input. (The row at the output, where it is another one, is
never a target's.) Under a parallel layout one tensor-parallel process of the first stage holds the row, ZeRO may keep
pieces of it on several, tied embeddings have a copy on the last stage, and ZeRO-2 and -3 take gradients away before
anyone can look. So every process contributes what it has of the fp32 weights, and adds the row's gradient up while it
is computed; one small exchange on request puts the figures together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.engine import DeepSpeedEngine
from pause_megatron.engine.flat_gradients import sum_of_squares
from pause_megatron.engine.optimizer_state import owned_range, owned_state
from pause_megatron.engine.update import Update
from pause_megatron.model.gpt import LocalModel
from pause_megatron.model.parameters import WORD_EMBEDDINGS, Shard
from pause_megatron.parallel.groups import device


@dataclass(frozen=True, kw_only=True)
class _Row:
    """The embedding of ``<pause>`` at some step, the same on every process; all in fp64."""

    weights: torch.Tensor
    """``[hidden_size]``."""
    gradient: torch.Tensor
    """``[hidden_size]``: of the last step, before clipping, and still times the loss scale."""
    mean_square_norm: float
    """Mean over all rows of the real vocabulary."""


class PauseEmbedding:
    """Watches one row of the word embeddings through a run; every process makes one and calls it alike."""

    def __init__(self, model: LocalModel, engine: DeepSpeedEngine, *, pause_id: int, vocab_size: int) -> None:
        """Begin to watch; the weights now in ``engine`` are those of the initialisation.

        Args:
            model: this process's part.
            engine: its optimizer.
            pause_id: the row.
            vocab_size: rows that are tokens; those after them are padding.
        """
        self._engine = engine
        self._pause_id = pause_id
        self._vocab_size = vocab_size
        self._hidden_size = model.chunks[0].config.hidden_size
        self._embeddings = [item for item in model.parameters if item.name == WORD_EMBEDDINGS]
        self._gradient = torch.zeros(self._hidden_size, device=device())
        self._last_gradient = self._gradient
        self._last_update: Update | None = None
        for item in self._embeddings:
            first_row, rows = _rows(item.shard)
            if first_row <= pause_id < first_row + rows:
                item.parameter.register_hook(partial(self._add, pause_id - first_row))
        self._initial = self._previous = self._gather().weights

    def _add(self, row: int, gradient: torch.Tensor) -> None:
        self._gradient += gradient[row]

    def restart(self) -> None:
        """Movement between records counts from here: call it when a checkpoint has been loaded."""
        self._previous = self._gather().weights

    def end_step(self, update: Update | None) -> None:
        """Call it after every backward pass's ``update``; None when the gradients were dropped."""
        self._last_gradient, self._gradient = self._gradient, torch.zeros_like(self._gradient)
        self._last_update = update

    def figures(self) -> dict[str, float]:
        """What a record says of the embedding after the last step, see ``docs/watching.md``; all processes call it."""
        row = self._gather()
        weights, initial = row.weights, self._initial
        found = {
            "norm": float(weights.norm()),
            "norm_of_all_rows": math.sqrt(row.mean_square_norm),
            "movement": float((weights - initial).norm()),
            "movement_since_last": float((weights - self._previous).norm()),
            "cosine_with_initial": float(torch.cosine_similarity(weights, initial, dim=0)),
        }
        self._previous = weights
        update = self._last_update
        if update and update.applied and update.grad_norm > 0:
            found["gradient_share"] = (float(row.gradient.norm()) / update.loss_scale / update.grad_norm) ** 2
        return found

    def _gather(self) -> _Row:
        """Put the row together from what all processes hold of it."""
        size = self._hidden_size
        message = torch.zeros(3 * size + 2, dtype=torch.float64)
        weights, copies, gradient = message[: 3 * size].view(3, size)
        squares, counted = message[3 * size :]
        gradient += self._last_gradient.cpu() / parallel_state.get_data_parallel_world_size()
        for item in self._embeddings:
            start, length = owned_range(self._engine, item.parameter)
            if length == 0:
                continue
            owned = owned_state(self._engine, item.parameter, "master")
            first_row, _ = _rows(item.shard)
            row = (self._pause_id - first_row) * size - start  # where it begins in the owned piece, if it does
            first, last = max(row, 0), min(row + size, length)
            if first < last:
                weights[first - row : last - row] += owned[first:last].cpu()
                copies[first - row : last - row] += 1
            tokens = min(max((self._vocab_size - first_row) * size - start, 0), length)
            squares += sum_of_squares(owned[:tokens]).cpu()
            counted += tokens
        dist.all_reduce(message)
        # Under ZeRO-0 and with tied embeddings there are several copies, all equal.
        return _Row(weights=weights / copies, gradient=gradient, mean_square_norm=float(squares / counted) * size)


def _rows(shard: Shard) -> tuple[int, int]:
    """The first row of the vocabulary that a process holds, and how many it holds."""
    rows = shard.global_shape[0] // shard.tp_size
    return shard.tp_rank * rows, rows
