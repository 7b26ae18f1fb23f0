"""Model for lm-evaluation-harness: its ``hf`` model, with pauses inserted as ids.

The harness words and tokenizes the prompts and scores the answers. This class inserts the pauses and the attention
mask. Without pauses and with causal attention, the results equal those of ``hf``.
"""

import math
from functools import partialmethod
from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from pause_megatron.downstream.batching import BorderBatch, align
from pause_megatron.downstream.generation import bad_logits, generation_arguments
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
        )
        self._folder = folder
        self._pausing = pausing

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of ``string`` as in finetuning; it continues a text if ``add_special_tokens`` is False."""
        return self._folder.encode(string, begins=add_special_tokens is not False)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list[TokenizedRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether greedy decoding gives it; in order.

        Raises :class:`UserError` for a log-probability that is not finite.
        """
        longest_first = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        scores: dict[int, tuple[float, bool]] = {}
        batch_size = override_bs or self.batch_size
        for start in range(0, len(requests), batch_size):
            chosen = longest_first[start : start + batch_size]
            scores.update(zip(chosen, self._score([requests[i] for i in chosen]), strict=True))
        return [scores[i] for i in range(len(requests))]

    def _score(self, requests: list[TokenizedRequest]) -> list[tuple[float, bool]]:
        # The last token of a continuation is predicted but not read, so it needs no position.
        read = [continuation[:-1] for _, _, continuation in requests]
        prefixes = [
            self._pausing.prefix(self._folder, text, context, self.max_length - len(tokens))
            for ((text, _), context, _), tokens in zip(requests, read, strict=True)
        ]
        batch = align(prefixes, read, self._folder.eod_id).to(self.device)
        inputs = batch.model_inputs(bidirectional=self._pausing.bidirectional, dtype=self.model.dtype)
        log_probabilities = self.model(**inputs).logits.float().log_softmax(dim=-1)  # [batch, target + 1, vocabulary]
        scores = []
        for row, ((text, _), _, ids) in zip(log_probabilities, requests, strict=True):
            continuation = torch.tensor(ids, device=self.device)
            window = row[: len(ids)]  # [tokens, vocabulary]; the row is longer if another target of the batch is
            total = float(window.gather(1, continuation[:, None]).sum())
            if not math.isfinite(total):
                raise bad_logits(self._folder, text)
            scores.append((total, bool((window.argmax(dim=1) == continuation).all())))
        return scores

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: Literal["left", "right"] = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask of contexts with their pauses, each [batch, sequence], padded on the left."""
        assert padding_side == "left"
        room = left_truncate_len or self.max_length
        prefixes = [self._pausing.prefix(self._folder, text, self.tok_encode(text), room) for text in strings]
        batch = align(prefixes, [[]] * len(prefixes), self._folder.eod_id)
        return batch.input_ids, batch.real.long()

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        """Continue the prefixes ``context``, [batch, sequence]; returns prefixes and continuations."""
        real = generation_kwargs.pop("attention_mask").bool()
        arguments = generation_arguments(
            self._folder,
            BorderBatch(context, real, border=context.shape[1]),
            bidirectional=self._pausing.bidirectional,
            settings=generation_kwargs,
        )
        arguments = {"eos_token_id": list(self._folder.stop_ids), **generation_kwargs, **arguments}
        output: torch.Tensor = super()._model_generate(context, max_length, stop, **arguments)
        return output

    # The evaluator does not pass disable_tqdm, and the harness shows progress bars by default.
    generate_until = partialmethod(HFLM.generate_until, disable_tqdm=True)
    loglikelihood = partialmethod(HFLM.loglikelihood, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refuse: a text that is scored from its first token on has no prompt to pause after."""
        raise UserError("--task: tasks that score complete texts (loglikelihood_rolling) have no prompt to pause after")
