"""What finetuning learns from: a task's documents as tokens with their pauses, and batches of them.

Between the task's text and the Trainer; where the pauses go is decided in ``pauses.prompts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pause_megatron.downstream.batching import line_up
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.pauses.prompts import IGNORE_INDEX, PausedExample, pause_example


def encode_examples(pairs: list[TextPair], base: ModelFolder, num_pauses: int) -> list[PausedExample]:
    """Tokenize the pairs and place the pauses.

    Context and target are encoded together, as the harness does it, so the target's first token is the one that
    follows this context in running text; where that would change the context's own tokens, they are encoded apart.
    """
    contexts = base.tokenizer([pair.context for pair in pairs], add_special_tokens=False)["input_ids"]
    wholes = base.tokenizer([pair.context + pair.target for pair in pairs], add_special_tokens=False)["input_ids"]
    examples = []
    for pair, context, whole in zip(pairs, contexts, wholes, strict=True):
        together = whole[: len(context)] == context
        target = whole[len(context) :] if together else base.tokenizer.encode(pair.target, add_special_tokens=False)
        example = pause_example(
            context,
            [*target, base.eod_id],
            num_pauses,
            pause_id=base.pause_id,
            eod_id=base.eod_id,
            context_length=base.context_length,
        )
        examples.append(example)
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
