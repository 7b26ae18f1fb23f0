"""Metrics of the input embedding of ``<pause>``, the one vector that pause-training adds to a model.

The embedding is a row of the input word embeddings ``[V, H]`` (vocabulary rows with padding, hidden size). The row of
``<pause>`` in the output layer is not measured, because ``<pause>`` is never a target. Where the row is depends on the
layout: on one tensor-parallel rank of the first pipeline stage; under ZeRO in parts on several data-parallel ranks;
with tied embeddings as a copy on the last stage too. Its gradient is gone after the step under ZeRO-2 and ZeRO-3.
Therefore each rank adds up the row's gradient in a hook during the backward pass, and for a record all ranks put the
row together from their parts of the fp32 weights with one all-reduce.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.engine import Engine
from pause_megatron.engine.flat_gradients import sum_of_squares
from pause_megatron.engine.optimizer_state import owned_range, owned_state
from pause_megatron.engine.updater import Update
from pause_megatron.model.gpt import LocalModel
from pause_megatron.model.parameters import WORD_EMBEDDINGS, Shard
from pause_megatron.parallel.process_device import device
from pause_megatron.records.pretraining import PauseEmbeddingRecord


@dataclass(frozen=True, kw_only=True)
class _Embedding:
    """The embedding of ``<pause>`` after a step, equal on every rank; fp64."""

    weights: torch.Tensor
    """``[H]``."""
    gradient: torch.Tensor
    """``[H]``, of the last step, before clipping, multiplied by :attr:`Update.gradient_scale`."""
    mean_square_norm: float
    """Mean squared norm of all rows of the vocabulary, without padding rows."""


class PauseEmbedding:
    """Norm, movement and gradient of one row of the word embeddings. Every rank calls the same methods."""

    def __init__(self, model: LocalModel, engine: Engine, *, pause_id: int, vocab_size: int) -> None:
        """Start with the weights that are now in ``engine``, which must be the initial ones.

        Row ``pause_id`` is measured; rows from ``vocab_size`` on are padding.
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
                item.parameter.register_hook(partial(self._add_gradient, pause_id - first_row))
        self._initial = self._previous = self._gather().weights

    def _add_gradient(self, row: int, gradient: torch.Tensor) -> None:
        self._gradient += gradient[row]  # gradient: [V / TP, H] of one microbatch

    def restart(self) -> None:
        """Measure the movement since the last record from here; call it after loading a checkpoint."""
        self._previous = self._gather().weights

    def end_step(self, update: Update | None) -> None:
        """End a step with ``update``; None if its gradients were discarded."""
        self._last_gradient, self._gradient = self._gradient, torch.zeros_like(self._gradient)
        self._last_update = update

    def measure(self) -> PauseEmbeddingRecord:
        """The record of the embedding after the last step. Collective: every rank must call it."""
        row, update = self._gather(), self._last_update
        weights, initial, previous = row.weights, self._initial, self._previous
        self._previous = weights
        share = None
        if update and update.applied and update.grad_norm > 0:
            share = (float(row.gradient.norm()) / update.gradient_scale / update.grad_norm) ** 2
        return PauseEmbeddingRecord(
            norm=float(weights.norm()),
            norm_of_all_rows=math.sqrt(row.mean_square_norm),
            movement=float((weights - initial).norm()),
            movement_since_last=float((weights - previous).norm()),
            cosine_with_initial=float(torch.cosine_similarity(weights, initial, dim=0)),
            gradient_share=share,
        )

    def _gather(self) -> _Embedding:
        """Put the row together from the parts of all ranks with one all-reduce.

        The message is fp64 ``[3 * H + 2]``: the row, the number of ranks that hold each of its elements, the row's
        gradient, the sum of squares of the rank's part of all rows, and the number of elements of that part.
        """
        size = self._hidden_size
        message = torch.zeros(3 * size + 2, dtype=torch.float64)
        weights, copies, gradient = message[: 3 * size].view(3, size)  # views [H]: writing fills the message
        squares, counted = message[3 * size :]
        gradient += self._last_gradient.cpu() / parallel_state.get_data_parallel_world_size()
        for item in self._embeddings:
            # This rank owns elements start to start + length of its flattened shard [V / TP * H].
            start, length = owned_range(self._engine, item.parameter)
            if length == 0:
                continue
            owned = owned_state(self._engine, item.parameter, "master")  # [length]
            first_row, _ = _rows(item.shard)
            row = (self._pause_id - first_row) * size - start  # where the row begins in owned; may lie outside
            first, last = max(row, 0), min(row + size, length)
            if first < last:
                weights[first - row : last - row] += owned[first:last].cpu()
                copies[first - row : last - row] += 1
            tokens = min(max((self._vocab_size - first_row) * size - start, 0), length)  # without padding rows
            squares += sum_of_squares(owned[:tokens]).cpu()
            counted += tokens
        dist.all_reduce(message)
        # ZeRO-0 and tied embeddings have several equal copies of an element: divide by their number.
        return _Embedding(weights=weights / copies, gradient=gradient, mean_square_norm=float(squares / counted) * size)


def _rows(shard: Shard) -> tuple[int, int]:
    """First vocabulary row of ``shard``, and its number of rows (V / TP)."""
    rows = shard.global_shape[0] // shard.tp_size
    return shard.tp_rank * rows, rows
