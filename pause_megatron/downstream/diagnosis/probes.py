"""Prompts with pauses and correct answers, in batches, as the measurements of a diagnosis read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pause_megatron.downstream.batching import BorderBatch, align
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import encode_example


@dataclass(frozen=True)
class Probe:
    """A batch of prompts with pauses and answers; tensors are on the model's device."""

    batch: BorderBatch
    targets: torch.Tensor
    """Tokens of the answer and the end of document; int64 [batch, target], any token at padding."""
    bidirectional: bool

    @property
    def is_pause(self) -> torch.Tensor:
        """True at the pauses; boolean [batch, sequence]."""
        return self.batch.is_pause

    @property
    def is_prompt(self) -> torch.Tensor:
        """True at tokens before the answer that are no pauses; boolean [batch, sequence]."""
        columns = torch.arange(self.is_pause.shape[1], device=self.is_pause.device)
        return self.batch.real & (columns < self.batch.border) & ~self.is_pause

    @property
    def is_answer(self) -> torch.Tensor:
        """True at the tokens of the answer; boolean [batch, sequence]."""
        return self.batch.real & ~self.is_prompt & ~self.is_pause

    @property
    def predicts_answer(self) -> torch.Tensor:
        """True at the positions whose next token is in the answer; boolean [batch, sequence]."""
        shifted = self.is_answer.roll(-1, dims=1)
        shifted[:, -1] = False
        return shifted

    def model_inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return the arguments of the model's ``forward``, as finetuning and evaluation pass them."""
        return self.batch.model_inputs(bidirectional=self.bidirectional, dtype=dtype)

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the additive attention mask, [batch, 1, query, key]."""
        return self.batch.attention_mask(bidirectional=self.bidirectional, dtype=dtype)


def probes(folder: ModelFolder, pairs: Sequence[TextPair], pausing: Pausing, batch_size: int) -> Iterator[Probe]:
    """Yield ``pairs`` in batches; raises as :func:`~pause_megatron.downstream.training_examples.encode_example`."""
    for first in range(0, len(pairs), batch_size):
        examples = [encode_example(pair, folder, pausing) for pair in pairs[first : first + batch_size]]
        prefixes, targets = [one.prefix for one in examples], [one.target for one in examples]
        batch = align(prefixes, targets, folder.eod_id, shares_positions=folder.shares_positions)
        batch = batch.to(folder.model.device)
        yield Probe(batch, batch.input_ids[:, batch.border :], pausing.bidirectional)


def with_number(pausing: Pausing, num_pauses: int) -> Pausing:
    """Return ``pausing`` with another number of pauses."""
    return replace(pausing, num_pauses=num_pauses)
