"""What finetuning learns from: a task's documents as tokens with their pauses, and batches of them.

Between the task's text and the Trainer; where the pauses go is decided in ``pauses.prompts``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pause_megatron.downstream.batching import line_up
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.pauses.prompts import IGNORE_INDEX, PausedExample


def encode_examples(
    pairs: list[TextPair], base: ModelFolder, pausing: Pausing, *, fewest: int | None = None, seed: int = 0
) -> list[PausedExample]:
    """Tokenize the pairs and place the pauses: as many as ``pausing`` says, or for each pair a number drawn uniformly
    from ``fewest`` to that, the same for the same ``seed``.

    Context and target are encoded together, as the harness does it, so the target's first token is the one that
    follows this context in running text; where that would change the context's own tokens, they are encoded apart.
    """
    most = pausing.num_pauses
    contexts = base.tokenizer([pair.context for pair in pairs], add_special_tokens=False)["input_ids"]
    wholes = base.tokenizer([pair.context + pair.target for pair in pairs], add_special_tokens=False)["input_ids"]
    numbers = random.Random(seed)
    examples = []
    for pair, context, whole in zip(pairs, contexts, wholes, strict=True):
        if fewest is not None:
            pausing = replace(pausing, num_pauses=numbers.randint(fewest, most))
        together = whole[: len(context)] == context
        target = whole[len(context) :] if together else base.tokenizer.encode(pair.target, add_special_tokens=False)
        learned = np.array([*target, base.eod_id], dtype=np.int64)
        prefix = pausing.prefix(base, pair.context, context, base.context_length - len(learned))
        examples.append(PausedExample(prefix, learned))
    return examples


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
