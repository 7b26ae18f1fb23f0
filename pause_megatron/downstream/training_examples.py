"""What finetuning learns from: a task's documents as tokens with their pauses, and batches of them.

Between the task's text and the Trainer; where the pauses go is decided in ``pauses.prompts``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pause_megatron.downstream.batching import line_up
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair, TextPairs
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import IGNORE_INDEX, PausedExample

_SHOWN = 40
"""Characters of a context that are enough to find it by."""


class PausedExamples(Dataset[PausedExample]):
    """Text pairs as tokens with their pauses. Each is worded and encoded when it is first asked for, and then kept:
    training begins at once, and a run of few steps encodes few examples.

    Raises :class:`UserError` that names the example, when it is asked for, where there is no place for its pauses.
    """

    def __init__(
        self, pairs: TextPairs, base: ModelFolder, pausing: Pausing, *, fewest: int | None = None, seed: int = 0
    ) -> None:
        """Every example has as many pauses as ``pausing`` says, or a number drawn uniformly from ``fewest`` to that,
        which ``seed`` and the example's index decide alone: in whatever order and process it is asked for."""
        self._pairs = pairs
        self._base = base
        self._pausing = pausing
        self._fewest = fewest
        self._seed = seed
        self._encoded: dict[int, PausedExample] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> PausedExample:
        if index not in self._encoded:
            pair = self._pairs[index]
            try:
                self._encoded[index] = encode_example(pair, self._base, self._pausing_of(index))
            except UserError as error:
                raise UserError(f"training example {index + 1} ({_beginning(pair.context)}): {error}") from error
        return self._encoded[index]

    def _pausing_of(self, index: int) -> Pausing:
        if self._fewest is None:
            return self._pausing
        drawn = random.Random(f"{self._seed}/{index}").randint(self._fewest, self._pausing.num_pauses)
        return replace(self._pausing, num_pauses=drawn)


def encode_example(pair: TextPair, base: ModelFolder, pausing: Pausing) -> PausedExample:
    """Tokenize the pair and place the pauses.

    Context and target are encoded together, as the harness does it, so the target's first token is the one that
    follows this context in running text; where that would change the context's own tokens, they are encoded apart.

    Raises :class:`UserError` where the context lacks the marker of the pauses, or they leave it no room.
    """
    context = base.tokenizer.encode(pair.context, add_special_tokens=False)
    whole = base.tokenizer.encode(pair.context + pair.target, add_special_tokens=False)
    together = whole[: len(context)] == context
    target = whole[len(context) :] if together else base.tokenizer.encode(pair.target, add_special_tokens=False)
    learned = np.array([*target, base.eod_id], dtype=np.int64)
    prefix = pausing.prefix(base, pair.context, context, base.context_length - len(learned))
    return PausedExample(prefix, learned)


def _beginning(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


@dataclass(frozen=True)
class PauseCollator:
    """Examples to a batch of model inputs and labels; only the target carries labels."""

    pad_id: int
    bidirectional: bool
    """Whether the prefix is attended both ways."""
    dtype: torch.dtype
    """Of the attention mask: what the model computes in."""

    def __call__(self, examples: list[PausedExample]) -> dict[str, Any]:
        """The arguments of ``forward``, ``labels`` among them.

        Logits and labels both begin at the last prefix token, [batch, target + 1]; the model shifts them by one.
        """
        batch = line_up([example.prefix for example in examples], [example.target for example in examples], self.pad_id)
        labels = batch.input_ids.masked_fill(~batch.real, IGNORE_INDEX)[:, batch.border - 1 :]
        labels[:, 0] = IGNORE_INDEX
        return {**batch.model_inputs(bidirectional=self.bidirectional, dtype=self.dtype), "labels": labels}
