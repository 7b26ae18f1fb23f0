"""The model as lm-evaluation-harness sees it: its own ``hf`` model, with pauses put in as ids.

The harness words and tokenizes the prompts and judges the answers; this puts the pauses into the context, and attends
the prefix as in finetuning. Without pauses and causally it gives what ``hf`` gives.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from pause_megatron.downstream.batching import BorderBatch, line_up
from pause_megatron.downstream.generation import generation_arguments
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.errors import UserError

TokenizedRequest = tuple[tuple[str, str], list[int], list[int]]
"""Texts of context and continuation, and the ids of each."""


class PauseLM(HFLM):
    """``hf`` with pauses in every context."""

    def __init__(self, folder: ModelFolder, pausing: Pausing, batch_size: int) -> None:
        super().__init__(
            folder.model,
            backend="causal",
            tokenizer=folder.tokenizer,
            batch_size=batch_size,
            max_length=folder.context_length,
            add_bos_token=False,  # as in finetuning: no token the tokenizer adds by itself, baked pauses among them
        )
        self._folder = folder
        self._pausing = pausing

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list[TokenizedRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Log-probability of every continuation, and whether it is what greedy decoding gives; in order."""
        longest_first = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        scores: dict[int, tuple[float, bool]] = {}
        batch_size = override_bs or self.batch_size
        for start in range(0, len(requests), batch_size):
            chosen = longest_first[start : start + batch_size]
            scores.update(zip(chosen, self._score([requests[i] for i in chosen]), strict=True))
        return [scores[i] for i in range(len(requests))]

    def _score(self, requests: list[TokenizedRequest]) -> list[tuple[float, bool]]:
        # The last token of a continuation is judged but never read, so it needs no position.
        read = [continuation[:-1] for _, _, continuation in requests]
        prefixes = [
            self._pausing.prefix(self._folder, text, context, self.max_length - len(tokens))
            for ((text, _), context, _), tokens in zip(requests, read, strict=True)
        ]
        batch = line_up(prefixes, read, self._folder.eod_id).to(self.device)
        inputs = batch.model_inputs(bidirectional=self._pausing.bidirectional, dtype=self.model.dtype)
        log_probabilities = self.model(**inputs).logits.float().log_softmax(dim=-1)
        return [
            _continuation_score(row, torch.tensor(continuation, device=self.device))
            for row, (_, _, continuation) in zip(log_probabilities, requests, strict=True)
        ]

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: Literal["left", "right"] = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Contexts with their pauses, padded on the left; the harness generates from nothing else.

        Returns ids and attention mask, each [batch, sequence].
        """
        assert padding_side == "left"
        room = left_truncate_len or self.max_length
        prefixes = [self._pausing.prefix(self._folder, text, self.tok_encode(text), room) for text in strings]
        batch = line_up(prefixes, [[]] * len(prefixes), self._folder.eod_id)
        return batch.input_ids, batch.real.long()

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        """Continue the prefixes ``context``, [batch, sequence]; returns them with what follows."""
        real = generation_kwargs.pop("attention_mask").bool()
        batch = BorderBatch(context, real, border=context.shape[1])
        arguments = generation_arguments(
            self.model,
            batch,
            self._folder.pause_id,
            bidirectional=self._pausing.bidirectional,
            settings=generation_kwargs,
        )
        arguments = {"eos_token_id": self._folder.eod_id, **generation_kwargs, **arguments}
        output: torch.Tensor = super()._model_generate(context, max_length, stop, **arguments)
        return output

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text that follows each request's context and pauses; without the harness's progress bar."""
        texts: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return texts

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Each continuation's log-probability and whether it is the greedy one; without the harness's progress bar."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refused: a text scored from its first token on has no context to pause after."""
        raise UserError("tasks that score whole texts (loglikelihood_rolling) have no prompt to pause after")


def _continuation_score(log_probabilities: torch.Tensor, continuation: torch.Tensor) -> tuple[float, bool]:
    """Sum of a continuation's log-probabilities and whether each is the largest; inputs [window, vocabulary], [tokens].

    The window begins with the prediction of the first token and may be longer than the continuation.
    """
    window = log_probabilities[: len(continuation)]
    total = window.gather(1, continuation[:, None]).sum()
    return float(total), bool((window.argmax(dim=1) == continuation).all())
