"""Training examples of finetuning: documents of a task as tokens with pauses, and batches of them."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from pause_megatron.downstream.batching import align
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import IGNORE_INDEX, PausedExample
from pause_megatron.tokenizer.pause_tokenizer import excerpt


@dataclass(eq=False)
class PausedExamples(Dataset[PausedExample]):
    """Text pairs as tokens with pauses, each encoded at its first use and then kept.

    Training starts at once. The price: an example without room for its pauses raises a :class:`UserError` when it is
    read, possibly late in a run. If numbers of pauses are drawn, each epoch of training draws anew, see
    :meth:`start_epoch`, so that a model cannot learn an example's number together with its answer.
    """

    pairs: Sequence[TextPair]
    base: ModelFolder
    pausing: Pausing
    fewest: int | None = None
    """If set, draw each example's number of pauses uniformly from this number to ``pausing.num_pauses``. The draw
    depends only on ``seed``, the epoch, and the example's index, not on the order or the rank that reads it."""
    seed: int = 0
    _epoch: int = field(default=0, init=False)
    _encoded: dict[int, PausedExample] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PausedExample:
        if index not in self._encoded:
            pair = self.pairs[index]
            try:
                self._encoded[index] = encode_example(pair, self.base, self._pausing_of(index))
            except UserError as error:
                raise UserError(f"training example {index + 1} ({excerpt(pair.context)}): {error}") from error
        return self._encoded[index]

    def start_epoch(self, epoch: int) -> None:
        """Draw the numbers of pauses of ``epoch``, counted from 0; a new object is in epoch 0."""
        if self.fewest is not None and epoch != self._epoch:
            self._encoded.clear()
        self._epoch = epoch

    def _pausing_of(self, index: int) -> Pausing:
        if self.fewest is None:
            return self.pausing
        drawn = random.Random(f"{self.seed}/{self._epoch}/{index}").randint(self.fewest, self.pausing.num_pauses)
        return replace(self.pausing, num_pauses=drawn)


class EpochStart(TrainerCallback):
    """Tells the examples which epoch starts or resumes, as the Trainer counts epochs at a resume: from the step."""

    def __init__(self, examples: PausedExamples) -> None:
        self._examples = examples

    def on_epoch_begin(self, args: Any, state: Any, control: Any, *, train_dataloader: Any, **_: Any) -> None:
        """Start the epoch that the next step belongs to."""
        steps_per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        self._examples.start_epoch(state.global_step // steps_per_epoch)


def encode_example(pair: TextPair, base: ModelFolder, pausing: Pausing) -> PausedExample:
    """Tokenize the pair and insert the pauses.

    Context and target are encoded together, as the harness does it, so that the target starts with the token that
    follows the context in running text. If this changes tokens of the context, they are encoded separately.

    Raises :class:`UserError` if the context lacks the marker of the pauses, or if the pauses leave no room for it.
    """
    context, together = base.encode(pair.context), base.encode(pair.context + pair.target)
    starts_alike = together[: len(context)] == context
    target = together[len(context) :] if starts_alike else base.encode(pair.target, begins=False)
    learned = np.array([*target, base.eod_id], dtype=np.int64)
    prefix = pausing.prefix(base, pair.context, context, base.context_length - len(learned))
    return PausedExample(prefix, pausing.target(base, prefix, learned))


@dataclass(frozen=True)
class PauseCollator:
    """Turns examples into a batch of model inputs and labels; only the target has labels."""

    pad_id: int
    bidirectional: bool
    """Whether prompt and pauses attend to each other in both directions."""
    dtype: torch.dtype
    """Data type of the attention mask: the one that the model computes in."""
    shares_positions: bool = False
    """Whether a pause has the position index of the real token before it."""

    def __call__(self, examples: list[PausedExample]) -> dict[str, Any]:
        """Return the arguments of ``forward``, including ``labels``.

        Logits and labels start at the last prefix token, [batch, target + 1]; the model shifts them by one.
        """
        prefixes, targets = [example.prefix for example in examples], [example.target for example in examples]
        batch = align(prefixes, targets, self.pad_id, shares_positions=self.shares_positions)
        labels = batch.input_ids.masked_fill(~batch.real | batch.is_pause, IGNORE_INDEX)[:, batch.border - 1 :]
        labels[:, 0] = IGNORE_INDEX
        return {**batch.model_inputs(bidirectional=self.bidirectional, dtype=self.dtype), "labels": labels}
