"""Hints: labels at the pauses of a training example, and their loss.

Without hints, outputs at pauses are ignored. With hints the model also learns to say something at each pause, such as
an intermediate result (London and Kanade 2025, arXiv 2505.21024; Pfau et al. 2024, arXiv 2404.15758). A record has one
hint for each pause, a text of one token. Hint i is the label at pause i: the position before pause i predicts it, and
the last pause predicts the first target token, as without hints. The model never reads a hint: its input at each pause
is ``<pause>``. For example, with two pauses P and the hints a and b::

    input      x   :   P   P   y
    label      -   -   a   b   y
    output at      :   P   P          predicts a, b, y
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.trainer_states import SafeTrainer
from pause_megatron.errors import UserError, quoted
from pause_megatron.pauses.prompts import TokenIds

HINT_LABELS = "hint_labels"
"""Key of a batch with the labels at its pauses, [batch, pauses]."""


@dataclass
class Hints:
    """Checks the hints of records and turns them into labels."""

    folder: ModelFolder
    """Model with the tokenizer."""
    num_pauses: int
    """Pauses in every prompt, and hints in every record."""
    _ids: dict[str, int] = field(default_factory=dict, init=False)

    def check(self, hints: Any) -> list[int]:
        """Return the token ids of ``hints``. Raises ``ValueError`` with the problem."""
        if not isinstance(hints, list) or not all(isinstance(hint, str) for hint in hints):
            raise ValueError('expected an object with "hints", a list of texts, one for each pause (--hint-weight)')
        if len(hints) != self.num_pauses:
            raise ValueError(f'{len(hints)} texts in "hints" for --num-pauses-ft {self.num_pauses}: one for each pause')
        return [self._id(hint) for hint in hints]

    def labels(self, hints: Any) -> TokenIds:
        """Return the labels at the pauses of one example, [pauses]. Raises :class:`UserError` for invalid hints."""
        try:
            return np.array(self.check(hints), dtype=np.int64)
        except ValueError as error:
            raise UserError(f"{error}; correct the record or remove it") from error

    def _id(self, hint: str) -> int:
        if hint not in self._ids:
            ids = self.folder.encode(hint, begins=False)
            if len(ids) != 1:
                raise ValueError(f'{quoted(hint)} in "hints" is {len(ids)} tokens, not one, in {self.folder.path}')
            self._ids[hint] = ids[0]
        return self._ids[hint]


class HintTrainer(SafeTrainer):
    """Trainer whose loss also covers the hints: CE(targets) + weight * CE(hints).

    CE(targets) is the mean cross-entropy over all target tokens of the complete batch, with the end-of-document tokens,
    as without hints. CE(hints) is the mean over all hints of the complete batch. Both means are over all micro-batches
    and processes, so the gradient does not depend on how the batch is divided. London and Kanade (2025) have CE(answer)
    + 1.0 * CE(hints), with an answer of one token and no end-of-document token.

    Logs both losses separately: ``loss`` is CE(targets), and ``hint_loss`` CE(hints), without the weight. The loss of
    early stopping on held-out examples is CE(targets).
    """

    def __init__(self, *, hint_weight: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not self.model_accepts_loss_kwargs:
            name = type(self.model).__name__
            raise UserError(f"--hint-weight {hint_weight:g}: {name} cannot average its loss over a batch; remove it")
        self.hint_weight = hint_weight
        self._hints_in_batch = 0
        self._sums = torch.zeros(2, dtype=torch.float64)
        """Target and hint loss, summed over the steps since the last log."""
        self._first_step: int | None = None
        """Steps that were complete when the sums began."""

    def unlogged_losses(self) -> dict[str, Any]:
        """Return the sums of both losses too."""
        return {**super().unlogged_losses(), "sums": self._sums.tolist(), "first_step": self._first_step}

    def continue_losses(self, unlogged: dict[str, Any]) -> None:
        """Continue the sums of both losses too."""
        super().continue_losses(unlogged)
        self._sums = torch.tensor(unlogged["sums"], dtype=torch.float64)
        self._first_step = unlogged["first_step"]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Return the micro-batches of a step, and count their hints over all processes."""
        samples, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        number = torch.tensor(sum(sample[HINT_LABELS].numel() for sample in samples), device=self.args.device)
        self._hints_in_batch = int(self.accelerator.gather(number).sum())
        return samples, num_items_in_batch

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the part of the loss that these ``inputs`` contribute, as the Trainer's own."""
        hints = inputs[HINT_LABELS]
        inputs = {name: value for name, value in inputs.items() if name != HINT_LABELS}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            logits = outputs["logits"][:, : hints.shape[1]].float()  # the output before each pause
            summed = cross_entropy(logits.flatten(0, 1), hints.flatten(), reduction="sum")
            # The gradient is a mean over the processes, so that each contributes its part times their number.
            hint_loss = summed * self.accelerator.num_processes / self._hints_in_batch
            self._add(loss, hint_loss)
            loss = loss + self.hint_weight * hint_loss
        return (loss, outputs) if return_outputs else loss

    def _add(self, loss: torch.Tensor, hint_loss: torch.Tensor) -> None:
        if self._first_step is None:
            self._first_step = self.state.global_step
        sums = torch.stack([loss.detach(), hint_loss.detach()])
        self._sums = self._sums.to(sums) + sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with separate means of both losses since the last log, over all processes."""
        if "loss" in logs:
            assert self._first_step is not None
            means = self.accelerator.gather(self._sums[None]).mean(dim=0) / (self.state.global_step - self._first_step)
            logs["loss"], logs["hint_loss"] = means.tolist()
            self._sums, self._first_step = torch.zeros_like(self._sums), self.state.global_step
        super().log(logs, start_time)
