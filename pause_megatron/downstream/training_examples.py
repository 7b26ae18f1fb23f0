"""Training examples of finetuning: documents of a task as tokens with pauses, and batches of them."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from transformers import TrainerCallback

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.downstream.batching import align
from pause_megatron.downstream.hints import HINT_LABELS, Hints
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import IGNORE_INDEX, PausedExample, TokenIds
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
    hints: Hints | None = None
    """If set, every pair must have hints, which become the labels at its pauses."""
    places: Sequence[Sequence[int]] | None = None
    """Indices of the target tokens of each pair to put pauses before, for the placement ``before-unlikely``, from
    :func:`~pause_megatron.downstream.unlikely_tokens.unlikely_places`."""
    _epoch: int = field(default=0, init=False)
    _encoded: dict[int, PausedExample] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PausedExample:
        if index not in self._encoded:
            pair = self.pairs[index]
            try:
                places = self.places[index] if self.places else ()
                self._encoded[index] = encode_example(pair, self.base, self._pausing_of(index), self.hints, places)
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


def hold_out(examples: PausedExamples, config: FinetuneConfig) -> tuple[Subset[PausedExample], Subset[PausedExample]]:
    """Return training and held-out examples, chosen by the seed; those held out keep their numbers of pauses.

    Raises :class:`UserError` if there are too few.
    """
    number = config.held_out_examples
    if len(examples) <= number:
        raise UserError(
            f"--held-out-examples {number}: {config.task} has only {len(examples)} training examples; hold out fewer"
        )
    chosen = set(random.Random(config.seed).sample(range(len(examples)), number))
    learned = [index for index in range(len(examples)) if index not in chosen]
    return Subset(examples, learned), Subset(replace(examples), sorted(chosen))


def encode_pair(pair: TextPair, base: ModelFolder) -> tuple[list[int], TokenIds]:
    """Return the ids of the context, and those of the target with the end-of-document token; each of shape [tokens].

    Context and target are encoded together, as the harness does it, so that the target starts with the token that
    follows the context in running text. If this changes tokens of the context, they are encoded separately.
    """
    context, together = base.encode(pair.context), base.encode(pair.context + pair.target)
    starts_alike = together[: len(context)] == context
    target = together[len(context) :] if starts_alike else base.encode(pair.target, begins=False)
    return context, np.array([*target, base.eod_id], dtype=np.int64)


def encode_example(
    pair: TextPair, base: ModelFolder, pausing: Pausing, hints: Hints | None = None, places: Sequence[int] = ()
) -> PausedExample:
    """Tokenize the pair and insert the pauses; those of ``before-unlikely`` before the target tokens at ``places``.

    Raises :class:`UserError` if the context lacks the marker of the pauses, if the pauses leave no room for it, or if
    the pair has no valid ``hints``.
    """
    context, learned = encode_pair(pair, base)
    inside = 0 if base.shares_positions else pausing.num_pauses * len(places)  # pauses in the target
    prefix = pausing.prefix(base, pair.context, context, base.context_length - len(learned) - inside)
    labels = None if hints is None else hints.labels(pair.hints)
    return PausedExample(prefix, pausing.target(base, prefix, learned, places), labels)


@dataclass(frozen=True)
class PauseCollator:
    """Turns examples into a batch of model inputs and labels; only targets have labels, and pauses with hints."""

    pad_id: int
    bidirectional: bool
    """Whether prompt and pauses attend to each other in both directions."""
    dtype: torch.dtype
    """Data type of the attention mask: the one that the model computes in."""
    shares_positions: bool = False
    """Whether a pause has the position index of the real token before it."""

    def __call__(self, examples: list[PausedExample]) -> dict[str, Any]:
        """Return the arguments of ``forward``, including ``labels``.

        Logits and labels start at the last prefix token, [batch, target + 1]; the model shifts them by one. If the
        examples have hints, they start at the last token before the pauses, [batch, pauses + target + 1], and the key
        :data:`HINT_LABELS` has the labels at the pauses, [batch, pauses], which ``labels`` ignores.
        """
        prefixes, targets = [example.prefix for example in examples], [example.target for example in examples]
        batch = align(prefixes, targets, self.pad_id, shares_positions=self.shares_positions)
        hints = [example.hints for example in examples if example.hints is not None]
        pauses = len(hints[0]) if hints else 0
        labels = batch.input_ids.masked_fill(~batch.real | batch.is_pause, IGNORE_INDEX)
        labels = labels[:, batch.border - 1 - pauses :]
        labels[:, : pauses + 1] = IGNORE_INDEX
        inputs = {**batch.model_inputs(bidirectional=self.bidirectional, dtype=self.dtype), "labels": labels}
        if hints:
            inputs["logits_to_keep"] += pauses
            inputs[HINT_LABELS] = torch.from_numpy(np.stack(hints))
        return inputs
